"""Settings that differ between a checkpoint and the run that resumes it: which of them may."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

from miniclip.errors import UserError, as_override
from miniclip.files import flatten, without_place
from miniclip.runs import RunDirectory

log = logging.getLogger(__name__)

NOT_SET = "not set"

TRAINED_PARTS = (
    "data",
    "tokenizer",
    "encoder.image",
    "encoder.text",
    "projection",
    "temperature",
    "loss",
    "optimizer",
    "schedule",
    "precision",
    "trainer",
)
"""The parts of a config that say what is trained, and how."""

COMPARED = {part.partition(".")[0] for part in TRAINED_PARTS} | {
    "seed",
    "embed_dim",
    "image_size",
    "context_length",
}
"""Root keys that say what is trained; others name things, or help a study to set these."""

FREE = (
    "trainer.budget",
    "trainer.max_skipped_steps",
    "trainer.validate_every_epochs",
    "trainer.checkpoint_every_epochs",
    "trainer.checkpoint_every_steps",
    "trainer.checkpoint_every_minutes",
    "trainer.save_in_background",
    "trainer.keep_last",
    "trainer.keep_best",
    "trainer.on_save_error",
    "trainer.num_workers",
    "trainer.device",
    "trainer.deterministic",
    "trainer.compile",
    "loss.compile_tiles",
    "trainer.cuda_graphs",
    "trainer.images_on_gpu",
    "trainer.profile",
    "trainer.resume",
    "data.cache_dir",
    "data.max_cache_gb",
    "encoder.image.checkpoint_activations",
)
"""Settings that a resumed run takes without a word: how long, how often, where, and how fast."""

APPLIED = (
    "optimizer",
    "loss",
    "schedule",
    "precision",
    "trainer.batch_size",
    "trainer.accumulate_steps",
    "trainer.micro_batch_size",
    "trainer.grad_clip_norm",
    "data.cache",
    "data.crop",
    "data.crop_scale",
    "data.flip",
    "data.on_broken_image",
    "data.max_broken_fraction",
)
"""Settings that a resumed run trains with from then on, each told in a line."""

KEEP_PIXELS = ("memory", "disk")
"""Caches that hold the same pixels; without one they differ, for a cache shrinks images before the crop."""

NEED_STATE = ("amsgrad", "centered", "momentum")
"""Settings of base optimizers that keep a state from the first step on: none where they were off."""

OFF = (NOT_SET, None, False, 0)

LEARNED = ("loss.initial_bias",)
"""Settings that a weight begins with, which the checkpoint holds as it was trained since."""

FIXED_OF_DATA = (
    "data.seed",
    "data.captions",
    "data.eval_crop",
    "data.image_size",
    "data.shuffle_window",
    "data.streaming",
    "data.images_per_epoch",
)
"""Settings of the data that neither its fingerprint covers nor a resumed run can change."""


class Change(NamedTuple):
    """A setting that differs from the checkpoint's.

    Attributes:
        setting: its full name.
        theirs: the checkpoint's value.
        ours: the value of the run that resumes.
    """

    setting: str
    theirs: Any
    ours: Any

    def __str__(self) -> str:
        return f"{self.setting}={self.ours} (the checkpoint has {self.theirs})"

    @property
    def is_applied(self) -> bool:
        """Whether training can go on with the new value."""
        last = self.setting.rpartition(".")[2]
        is_other_class = last == "_target_" and self.setting.startswith("optimizer")
        lacks_state = last in NEED_STATE and self.theirs in OFF
        is_late = is_other_class or lacks_state or self.setting in LEARNED
        return _is_below(self.setting, APPLIED) and not is_late


def changed_settings(
    theirs: dict[str, Any], ours: dict[str, Any], *, is_same_data: bool | None = None
) -> list[Change]:
    """The settings that differ between a checkpoint's config and that of the run that resumes it.

    Those that change nothing of what is trained are left out, and of an absolute path only the last part
    counts, so that data may move. A setting that only one of them has counts where it would be applied; any
    other is one that the version which wrote the checkpoint did not know.

    Args:
        theirs, ours: resolved configs as plain data.
        is_same_data: whether the fingerprints of the data agree, which says more than the settings that
            lead to it; None where the checkpoint holds none.
    """
    before, now = _compared(theirs), _compared(ours)
    changes = []
    for setting in sorted(before.keys() | now.keys()):
        change = Change(setting, before.get(setting, NOT_SET), now.get(setting, NOT_SET))
        if _does_the_same(setting, before.get(setting), now.get(setting)) or _is_below(setting, FREE):
            continue

        # the data's fingerprint has answered for the settings that lead to it
        if is_same_data and setting.startswith("data.") and setting not in FIXED_OF_DATA + APPLIED:
            continue

        is_known_to_both = setting in before and setting in now
        if is_known_to_both or _is_below(setting, APPLIED):
            changes.append(change)
    return changes


def differing(theirs: dict[str, Any], ours: dict[str, Any], places: tuple[str, ...]) -> list[Change]:
    """The settings at and below these places that differ between two configs, whatever they change."""
    before, now = _compared(theirs), _compared(ours)
    changes = [Change(setting, before.get(setting, NOT_SET), value) for setting, value in now.items()]
    return [
        change for change in changes if _is_below(change.setting, places) and change.theirs != change.ours
    ]


def check_changes(changes: list[Change], checkpoint: Path) -> None:
    """Log each change that the resumed run trains with.

    Raises:
        UserError: when another cannot be applied in the middle of a run.
    """
    refused = [change for change in changes if not change.is_applied]
    if any(change.setting == "optimizer._target_" for change in refused):  # its base says no more
        refused = [change for change in refused if not change.setting.startswith("optimizer.")]
        refused += [change for change in changes if change.setting == "optimizer._target_"]

    if refused:
        raise UserError(
            f"{checkpoint} cannot go on with {_listed(refused)}: that would be another run. Give these the "
            "checkpoint's values, or start anew with trainer.resume=null."
        )

    for change in changes:
        log.info("From here on %s", change)


def check_same_settings(run: RunDirectory, changes: list[Change]) -> None:
    """Hold `trainer.resume=auto` to its promise in a directory that holds a run already.

    Raises:
        UserError: when that run is of other settings.
    """
    if changes:
        raise UserError(
            f"trainer.resume=auto: {run.path} holds a run of other settings, it would go on with "
            f"{_listed(changes)}. Give this run a directory of its own, or mean it: "
            f"{as_override('trainer.resume', run.path)}"
        )


def _does_the_same(setting: str, theirs: Any, ours: Any) -> bool:
    """Whether two values of a setting train the same; null is as good as not set."""
    if setting == "data.cache":
        both_keep = theirs in KEEP_PIXELS and ours in KEEP_PIXELS
        return both_keep or (theirs or "none") == (ours or "none")
    return theirs == ours


def _compared(config: dict[str, Any]) -> dict[str, Any]:
    """Settings by their full names, of the roots that say what is trained."""
    roots = {key: value for key, value in config.items() if key in COMPARED}
    return {
        name: without_place(value)
        for name, value in flatten(roots).items()
        if not name.startswith("encoder.text.config.")  # added to a checkpoint with a Hugging Face model
    }


def _is_below(setting: str, places: tuple[str, ...]) -> bool:
    return any(setting == place or setting.startswith(f"{place}.") for place in places)


def _listed(changes: list[Change]) -> str:
    return ", ".join(map(str, changes))
