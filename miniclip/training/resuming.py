"""Going on with a run: which checkpoint `trainer.resume` means, and which settings may differ."""

import json
import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch.optim import Optimizer

from miniclip.errors import SettingError, UserError, as_override
from miniclip.files import within
from miniclip.runs import RunDirectory, read_state
from miniclip.training.checkpoint import flatten, load_checkpoint
from miniclip.training.progress import Progress

log = logging.getLogger(__name__)

NOT_SET = "not set"

COMPARED = (
    "data",
    "encoder",
    "tokenizer",
    "projection",
    "temperature",
    "loss",
    "optimizer",
    "schedule",
    "precision",
    "trainer",
    "seed",
    "embed_dim",
    "image_size",
    "context_length",
)
"""Root keys that say what is trained; others name things, or help a study to set these."""

FREE = (
    "trainer.budget",
    "trainer.max_skipped_steps",
    "trainer.validate_every_epochs",
    "trainer.checkpoint_every_epochs",
    "trainer.num_workers",
    "trainer.device",
    "trainer.resume",
    "data.cache",
    "data.cache_dir",
)
"""Settings that a resumed run takes without a word: how long, how often, where, and how fast."""

APPLIED = (
    "optimizer",
    "loss",
    "schedule",
    "precision",
    "trainer.batch_size",
    "trainer.accumulate_steps",
    "trainer.grad_clip_norm",
    "data.crop",
    "data.crop_scale",
    "data.flip",
    "data.on_broken_image",
    "data.max_broken_fraction",
)
"""Settings that a resumed run trains with from then on, each told in a line."""

NEED_STATE = ("amsgrad", "centered")
"""Settings of base optimizers that need a state the checkpoint does not hold."""

FIXED_OF_DATA = ("data.seed", "data.captions", "data.eval_crop", "data.image_size")
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
        return _is_below(self.setting, APPLIED) and not is_other_class and last not in NEED_STATE


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
        if _is_below(setting, FREE) or before.get(setting, NOT_SET) == now.get(setting, NOT_SET):
            continue
        if is_same_data and setting.startswith("data.") and setting not in FIXED_OF_DATA + APPLIED:
            continue
        if (setting in before and setting in now) or _is_below(setting, APPLIED):
            changes.append(Change(setting, before.get(setting, NOT_SET), now.get(setting, NOT_SET)))
    return changes


def check_changes(changes: list[Change], checkpoint: Path) -> None:
    """Tell of each change that the resumed run trains with.

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


def go_on(resume: str | None, run: RunDirectory, config: dict[str, Any]) -> Path | None:
    """Make a run directory ready for `Trainer.fit`, and find the checkpoint to pass to it.

    What a try in the same directory recorded before its first checkpoint is removed.
    """
    checkpoint = find_checkpoint(resume, run, config)
    if checkpoint is None or not checkpoint.resolve().is_relative_to(run.path.resolve()):
        run.forget()
    if checkpoint is not None:
        run.go_on_from(checkpoint.parent.parent)
    return checkpoint


def find_checkpoint(resume: str | None, run: RunDirectory, config: dict[str, Any]) -> Path | None:
    """The checkpoint that `trainer.resume` means; None for a fresh start. See `Trainer`.

    A run beside it is taken with "auto" if it was interrupted or killed, is of the same settings, and no
    other run has gone on with it; it belongs to this run then.
    """
    if resume is None:
        return None
    if not resume:
        raise SettingError("trainer.resume", repr(resume), "must be null, auto, or a path")
    if resume != "auto":
        path = Path(resume).expanduser()
        checkpoint = within(path, "checkpoints/last.pt") if path.is_dir() else path
        if checkpoint.is_file() and _run_of(checkpoint) is not None:
            run.claim(checkpoint.parent.parent)
        return checkpoint
    if run.last_checkpoint.is_file():
        return run.last_checkpoint

    num_others = 0
    for sibling in sorted(run.path.parent.iterdir(), reverse=True):
        checkpoint = sibling / "checkpoints" / "last.pt"
        if sibling == run.path or not checkpoint.is_file() or not read_state(sibling).is_resumable:
            continue
        if not _is_of_the_same_settings(sibling, config):
            num_others += 1
        elif run.claim(sibling):
            return checkpoint

    others = f" ({num_others} of other settings left alone)" if num_others else ""
    log.info(
        "trainer.resume=auto finds no interrupted run in %s%s: a fresh start.", run.path.parent, others
    )
    return None


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


def load_optimizer(optimizer: Optimizer, state: dict[str, Any], path: Path) -> None:
    """Take a checkpoint's moments, but keep the settings that the optimizer was made with.

    torch's `load_state_dict` overwrites learning rate, decay and all else with the checkpoint's.

    Raises:
        UserError: when the state is of an optimizer with other parameter groups.
    """
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"The state of the optimizer in {path} does not fit this run's ({error}). Resume with the same "
            "optimizer, model and lr_factor settings."
        ) from None
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.pop("initial_lr", None)  # the schedule's, taken anew from lr
        group.update(own)


def carry_on_metrics(source: Path, run: RunDirectory, progress: Progress) -> None:
    """Give the run the records of the run it goes on from, itself perhaps, as far as the checkpoint stands.

    What follows training is measured again; so is the validation of the last step, if it was interrupted.
    """
    metrics = within(source, "metrics.jsonl")
    if not metrics.is_file():
        run.metrics.unlink(missing_ok=True)
        return

    kept = []
    for line in metrics.read_text(encoding="utf-8").splitlines(keepends=True):
        record = _record(line)
        step = record.get("step", math.inf)
        is_training = "train/loss" in record
        is_validation = "val/rsum" in record
        comes_again = progress.validation_due and step == progress.step
        if step <= progress.step and (is_training or (is_validation and not comes_again)):
            kept.append(line)
    run.metrics.write_text("".join(kept), encoding="utf-8")


def carry_on_skipped(source: Path, run: RunDirectory, progress: Progress) -> None:
    """Give the run what is known of skipped steps, up to the checkpoint's, of the run it goes on from."""
    skipped = within(source, run.skipped_batches.name)
    lines = skipped.read_text(encoding="utf-8").splitlines(keepends=True) if skipped.is_file() else []
    kept = [line for line in lines if _record(line).get("step", math.inf) <= progress.step]
    if kept:
        run.skipped_batches.write_text("".join(kept), encoding="utf-8")
    else:
        run.skipped_batches.unlink(missing_ok=True)


def _record(line: str) -> dict[str, Any]:
    """A line of a file of records; empty if it is torn."""
    try:
        record = json.loads(line) if line.endswith("\n") else {}
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def is_checkpoint_of(path: Path, best: dict[str, Any]) -> bool:
    """Whether a file holds the weights that a validation record was measured with."""
    progress = load_checkpoint(path)["progress"]
    own = progress["best"]
    same_best = own is not None and all(own[key] == best[key] for key in ("step", "val/rsum"))
    return same_best and progress["step"] == best["step"]


def _is_of_the_same_settings(folder: Path, config: dict[str, Any]) -> bool:
    try:
        theirs = yaml.safe_load(within(folder, "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    if not isinstance(theirs, dict):
        return False
    # another budget is another schedule, which only who names the run can want
    budgets = [each.get("trainer", {}).get("budget") for each in (theirs, config)]
    return budgets[0] == budgets[1] and not changed_settings(theirs, config)


def _run_of(checkpoint: Path) -> Path | None:
    """The run directory that a checkpoint lies in, if it does."""
    folder = checkpoint.parent.parent
    return (
        folder if checkpoint.parent.name == "checkpoints" and (folder / "status.json").is_file() else None
    )


def _compared(config: dict[str, Any]) -> dict[str, Any]:
    """Settings by their full names, of the roots that say what is trained."""
    roots = {key: value for key, value in config.items() if key in COMPARED}
    return {
        name: _without_place(value)
        for name, value in flatten(roots).items()
        if not name.startswith("encoder.text.config.")  # added to a checkpoint with a Hugging Face model
    }


def _without_place(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def _is_below(setting: str, places: tuple[str, ...]) -> bool:
    return any(setting == place or setting.startswith(f"{place}.") for place in places)


def _listed(changes: list[Change]) -> str:
    return ", ".join(map(str, changes))
