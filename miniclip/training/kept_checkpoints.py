"""The checkpoints of a run that have a name of their own, beside the last one."""

import logging
import re
from pathlib import Path

from miniclip.runs import DamagedFile, RunDirectory
from miniclip.training.checkpoint import copy_checkpoint
from miniclip.training.validation import is_candidate, selection_key

log = logging.getLogger(__name__)

OWN_NAMES = re.compile(r"(last|best|(step|best)_\d{8,}|epoch_\d{4,})\.pt")
"""What a run calls its checkpoints."""


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints that a run wrote into a folder, sound or not."""
    return sorted(path for path in folder.glob("*.pt") if OWN_NAMES.fullmatch(path.name))


class KeptCheckpoints:
    """Gives checkpoints a second name, and takes it away when newer or better ones have one.

    A name costs no space where the file system has hard links.

    Args:
        run: where they lie.
        keep_last: how many that `last.pt` has replaced stay, as step_00001200.pt, until the run ends.
        keep_best: how many of the best validations stay; of more than one as best_00001200.pt.

    Attributes:
        sound_step: where the `last.pt` stands that this process has written or read; None before.
    """

    def __init__(self, run: RunDirectory, *, keep_last: int, keep_best: int):
        self.run = run
        self.keep_last = keep_last
        self.keep_best = keep_best
        self.sound_step: int | None = None

    @property
    def best_weights(self) -> Path:
        """The weights in best.pt alone, which a finished run has."""
        return self.run.best_checkpoint.with_suffix(".safetensors")

    def before_replacing_last(self) -> None:
        """Give `last.pt` the name under which it stays."""
        if self.keep_last > 0 and self.sound_step is not None and self.run.last_checkpoint.is_file():
            copy_checkpoint(self.run.last_checkpoint, self._former(self.sound_step))

    def after_replacing_last(self, step: int) -> None:
        """Remove former ones that are too many, or beyond the step from which the run went on."""
        self.sound_step = step
        steps = self._steps("step")
        kept = [each for each in steps if each <= step][-self.keep_last :] if self.keep_last else []
        for former in set(steps) - set(kept):
            self._former(former).unlink(missing_ok=True)

    def remove_former(self) -> None:
        """Remove those before `last.pt`, which a run needs only while it goes on."""
        for step in self._steps("step"):
            self._former(step).unlink(missing_ok=True)

    def add_epoch(self, epoch: int) -> None:
        """Let `last.pt` stay as epoch_0010.pt."""
        copy_checkpoint(self.run.last_checkpoint, self.run.checkpoint(f"epoch_{epoch:04d}"))

    def add_best(self) -> None:
        """Let `last.pt` stay as best.pt."""
        self.best_weights.unlink(missing_ok=True)  # those of another best
        copy_checkpoint(self.run.last_checkpoint, self.run.best_checkpoint)

    def add_validated(self, step: int) -> None:
        """Let `last.pt`, just validated, stay if it is among the best."""
        copy_checkpoint(self.run.last_checkpoint, self._good(step))

        try:
            self._remove_worse()
        except DamagedFile as error:
            log.warning(
                "%s Which of the best validations are the best is unknown; all of them stay.", error
            )

    def _remove_worse(self) -> None:
        """Remove those of the best validations that are too many."""
        validations = [record for record in self.run.read_metrics() if "val/loss" in record]
        records = [record for record in validations if is_candidate(record)]
        keys = {record["step"]: selection_key(record) for record in records}
        steps = self._steps("best")
        ranked = sorted((each for each in steps if each in keys), key=lambda each: keys[each])
        for worse in set(steps) - set(ranked[-self.keep_best :]):
            self._good(worse).unlink()

    def _former(self, step: int) -> Path:
        return self.run.checkpoint(f"step_{step:08d}")

    def _good(self, step: int) -> Path:
        return self.run.checkpoint(f"best_{step:08d}")

    def _steps(self, kind: str) -> list[int]:
        """Steps of the checkpoints of a kind, in order."""
        names = [path.stem.partition("_") for path in checkpoints_in(self.run.checkpoints)]
        return sorted(int(number) for name, _, number in names if name == kind and number)
