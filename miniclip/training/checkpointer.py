"""Checkpoints of a run: when they are saved, which are kept, and how a run goes on from one."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from miniclip.disk_errors import DiskError
from miniclip.errors import UserError
from miniclip.files import within
from miniclip.runs import RunDirectory
from miniclip.training.changed_settings import changed_settings, check_changes, check_same_settings
from miniclip.training.checkpoint import (
    CheckpointError,
    check_architecture,
    copy_checkpoint,
    fitting,
    load_checkpoint,
    load_model,
    save_checkpoint,
    save_weights,
)
from miniclip.training.kept_checkpoints import KeptCheckpoints
from miniclip.training.progress import Progress, Stopwatch
from miniclip.training.resuming import (
    carry_on_metrics,
    carry_on_skipped,
    is_checkpoint_of,
    load_sound,
    source_of,
)
from miniclip.training.saver import Saver, snapshot
from miniclip.training.setup import TrainingSetup
from miniclip.training.stateful import DoesNotFit, stateful_parts

log = logging.getLogger(__name__)

LARGEST_FRACTION_OF_TIME = 0.05
"""Of the time, for saves that nothing but the end of an epoch asks for."""


@dataclass(frozen=True)
class SaveSettings:
    """When checkpoints are written, and which are kept; see `Trainer`."""

    every_epochs: int
    every_steps: int | None
    every_minutes: float | None
    in_background: bool
    keep_last: int
    keep_best: int
    on_error: str


class Checkpointer:
    """Saves and loads the parts of a run; keeps the last and the best checkpoint, and some others.

    Args:
        setup: what is trained.
        run: where the checkpoints lie.
        progress: of the run.
        settings: when checkpoints are written, and which are kept.
        writes: false of several processes for all but the main one, whose state is that of all.
    """

    def __init__(
        self,
        setup: TrainingSetup,
        run: RunDirectory,
        progress: Progress,
        settings: SaveSettings,
        *,
        writes: bool = True,
    ):
        self.writes = writes
        self.setup = setup
        self.run = run
        self.progress = progress
        self.settings = settings
        self.parts = stateful_parts(setup, run, progress)
        self.data = {
            "train": setup.train_set.split.fingerprint(),
            "val": setup.val_set.split.fingerprint(),
        }
        self.kept = KeptCheckpoints(run, keep_last=settings.keep_last, keep_best=settings.keep_best)
        self.saver = Saver(in_background=settings.in_background, on_error=settings.on_error)
        self._since_save = Stopwatch()
        self._seconds_of_save = 0.0

    @property
    def is_due(self) -> bool:
        """Whether a checkpoint is to be saved after this step, though no epoch ends with it."""
        settings = self.settings
        by_steps = settings.every_steps is not None and self.progress.step % settings.every_steps == 0
        seconds = math.inf if settings.every_minutes is None else 60 * settings.every_minutes
        return by_steps or self._since_save.seconds >= seconds

    @property
    def is_due_after_epoch(self) -> bool:
        """Whether a checkpoint is to be saved at this end of an epoch, which was not validated."""
        has_name = bool(self._names(is_best=False, was_validated=False))
        costs_little = self._seconds_of_save <= LARGEST_FRACTION_OF_TIME * self._since_save.seconds
        return self.is_due or has_name or costs_little

    def save(self) -> None:
        """Write the last checkpoint: the state of every part, and what describes the run.

        Raises:
            DiskError: when the system refuses it, or the one before, and `settings.on_error` says so.
        """
        duration, self._since_save = Stopwatch(), Stopwatch()
        if not self.writes:
            return
        self.saver.wait()  # so that there are no two snapshots
        content: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        content |= {"config": self.setup.config, "data": self.data}
        if self.setup.signature is not None:
            content["signature"] = self.setup.signature
        if self.settings.in_background:
            content = snapshot(content)
        self.saver.start(partial(self._write, content, self.progress.step))
        self._seconds_of_save = duration.seconds

    def keep(self, *, is_best: bool, was_validated: bool = True) -> bool:
        """Give the last checkpoint the other names that it deserves: best.pt, epoch_0010.pt.

        Returns:
            whether it has them: a save that failed is no candidate.

        Raises:
            DiskError: see `save`.
        """
        if not self.writes:
            return True
        for give_name in self._names(is_best=is_best, was_validated=was_validated):
            self.saver.wait()
            if self.saver.failure is not None:
                return False
            self.saver.run_now(give_name)
        return self.saver.failure is None

    def wait(self) -> None:
        """Return when nothing is being saved any more; see `save`."""
        self.saver.wait()

    @property
    def failure(self) -> DiskError | None:
        """Why the newest save is not whole; None if it is."""
        return self.saver.failure

    def keep_finished(self) -> None:
        """Write the weights of the best checkpoint as safetensors; keep what a finished run needs.

        The model has these weights: see `load_best`.

        Raises:
            DiskError: when the system refuses it, whatever `settings.on_error` says.
        """
        best = self.progress.best or {}
        facts = {name: best[name] for name in ("step", "epoch", "val/rsum", "protocol")}
        path = self.kept.best_weights
        self.saver.run_now(partial(save_weights, path, self.setup.model.state_dict(), facts))
        if self.saver.failure is not None:
            raise self.saver.failure
        self.kept.remove_former()

    def resume(self, path: Path, *, must_be_same: bool) -> None:
        """Go on where a checkpoint stands.

        A run directory that has none yet is given it at once, for a run that is killed before its first
        save, and would else go on from its best checkpoint.

        Args:
            must_be_same: refuse every setting that differs, also those that a run can change on its way.

        Raises:
            UserError: when its weights, settings or data are of another run.
        """
        path, checkpoint = load_sound(path)
        with fitting(path):
            check_architecture(self.setup.model, checkpoint, self.setup.config)
            self._compare(checkpoint, path, must_be_same=must_be_same)
            self._load(checkpoint, path)
            self.run.goes_on()
            log.info("Resumed from %s at step %d.", path, self.progress.step)
            self._find_best(path)
            if path.resolve() == self.run.last_checkpoint.resolve():
                self.kept.sound_step = self.progress.step
            source = source_of(path, self.run)
            carry_on_metrics(source, self.run, self.progress)
            carry_on_skipped(source, self.run, self.progress)
        if not self.run.last_checkpoint.is_file():
            self.save()
            self.wait()  # before it trains

    def load_best(self) -> None:
        """Give the model the weights of the best checkpoint."""
        load_model(self.setup.model, load_checkpoint(self.run.best_checkpoint), self.setup.config)

    def _names(self, *, is_best: bool, was_validated: bool) -> list[Callable[[], None]]:
        """What gives the last checkpoint each of the names that it deserves."""
        kept, progress = self.kept, self.progress
        names: list[Callable[[], None]] = []
        if is_best:
            names.append(kept.add_best)
        if was_validated and self.settings.keep_best > 1 and not progress.is_untrained:
            names.append(partial(kept.add_validated, progress.step))

        at_end_of_epoch = progress.position == 0 and progress.epoch > 0
        if at_end_of_epoch and progress.epoch % self.settings.every_epochs == 0:
            names.append(partial(kept.add_epoch, progress.epoch))
        return names

    def _write(self, content: dict[str, Any], step: int) -> None:
        self.kept.before_replacing_last()
        save_checkpoint(self.run.last_checkpoint, content)
        self.kept.after_replacing_last(step)

    def _load(self, checkpoint: dict[str, Any], path: Path) -> None:
        for name, part in self.parts.items():
            try:
                part.load_state_dict(checkpoint[name])
            except DoesNotFit as error:
                raise UserError(f"The checkpoint {path} {error}") from None

    def _compare(self, checkpoint: dict[str, Any], path: Path, *, must_be_same: bool) -> None:
        """Hold the run's settings and data against the checkpoint's; log what will change."""
        data = checkpoint.get("data")
        is_same_data = None if data is None else data == self.data
        changes = changed_settings(checkpoint["config"], self.setup.config, is_same_data=is_same_data)
        if must_be_same:
            check_same_settings(self.run, changes)

        if is_same_data is False:
            of_data = [str(change) for change in changes if change.setting.startswith("data.")]
            listed = f": {', '.join(of_data)}" if of_data else ""
            raise UserError(
                f"{path} was trained on other data: images or captions differ{listed}. Resume with the "
                "same data, or start anew with trainer.resume=null."
            )
        check_changes(changes, path)

    def _find_best(self, path: Path) -> None:
        """Give the run the checkpoint that `progress.best` tells of; without it, begin to choose anew.

        The checkpoint that is resumed can be the best one itself: a run can end between the two files.
        """
        progress = self.progress
        if progress.best is None:
            _tell_of_damaged_best(within(path.parent, "best.pt"))
            return

        names = (
            "best.pt",
            path.name,
            *(f"{kind}_{progress.best['step']:08d}.pt" for kind in ("best", "step")),
        )
        for candidate in (within(path.parent, name) for name in names):
            if candidate.is_file() and is_checkpoint_of(candidate, progress.best):
                if self.writes and candidate != self.run.best_checkpoint:
                    copy_checkpoint(candidate, self.run.best_checkpoint)
                return

        log.warning(
            "The weights of step %d, the best until now (rsum %.1f), are not beside %s: from step %d "
            "on the best are chosen anew.",
            progress.best["step"],
            progress.best["val/rsum"],
            path,
            progress.step,
        )
        progress.best = None
        progress.validation_due = True


def _tell_of_damaged_best(path: Path) -> None:
    """Say that a best checkpoint is lost which is damaged, and of which an older one knows nothing."""
    if not path.is_file():
        return
    try:
        load_checkpoint(path)
    except CheckpointError as error:
        log.warning("%s It is lost; the best are chosen anew.", error)
