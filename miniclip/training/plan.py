"""How long a run trains, in all, seen from where it stands."""

import math

from miniclip.data.sampler import EpochBatches
from miniclip.distributed import World
from miniclip.errors import SettingError, UserError, counted
from miniclip.optim import PassOptimizer
from miniclip.training.budget import Budget
from miniclip.training.progress import Progress
from miniclip.training.setup import TrainingSetup


class Plan:
    """Steps, epochs and forward passes of a run until its budget is used up.

    Args:
        budget: what ends the run.
        batches: those of an epoch.
        progress: where the run stands, after resuming.
        optimizer: says how many passes a step takes.
        accumulate_steps: batches per step.

    Attributes:
        total_steps: steps at the end; None where only the run tells, by the clock or by its passes.
        num_epochs: epochs at the end, the last one perhaps begun only; 0 where only the run tells.

    Raises:
        SettingError: when the budget does not suffice for one step.
    """

    def __init__(
        self,
        budget: Budget,
        batches: EpochBatches,
        progress: Progress,
        optimizer: PassOptimizer,
        *,
        accumulate_steps: int,
    ):
        self.budget = budget
        self.progress = progress
        self.optimizer = optimizer
        self.accumulate_steps = accumulate_steps
        if progress.forward_passes is None:  # a checkpoint that did not count them
            progress.forward_passes = optimizer.num_passes(progress.step) * accumulate_steps

        steps_per_epoch = batches.steps_left()
        steps_of_this_epoch = batches.steps_left(progress.position)
        epochs_after = budget.epochs - progress.epoch - 1
        left = steps_of_this_epoch + epochs_after * steps_per_epoch if epochs_after >= 0 else 0
        self.total_steps = budget.total_steps(
            steps_of_epochs=progress.step + left,
            passes_at=self._passes_at_end if optimizer.knows_its_passes else None,
        )
        if self.total_steps == 0:
            passes = budget.forward_passes
            raise SettingError("trainer.budget.forward_passes", passes, "is less than one step takes")

        self.num_epochs = 0
        if self.total_steps is not None:
            steps_beyond = max(0, self.total_steps - progress.step - steps_of_this_epoch)
            is_begun = progress.position > 0 or self.total_steps > progress.step
            self.num_epochs = progress.epoch + int(is_begun) + math.ceil(steps_beyond / steps_per_epoch)

    @property
    def is_done(self) -> bool:
        """Whether the budget is used up."""
        spent, whole = self._spent
        return spent >= whole

    @property
    def done_of_total(self) -> tuple[int, int]:
        """How far the run is, in steps; in milliseconds, or in passes, where these end it."""
        spent, whole = self._spent
        if self.budget.seconds is not None:
            return round(1000 * spent), max(1, round(1000 * whole))
        return round(spent), round(whole)

    def title(self, epoch: int) -> str:
        """An epoch out of all, "3/5"; its number alone where nobody knows of how many."""
        return str(epoch) if self.total_steps is None else f"{epoch}/{self.num_epochs}"

    @property
    def _spent(self) -> tuple[float, float]:
        """What is spent of the budget, and the whole: seconds, forward passes or steps."""
        progress, budget = self.progress, self.budget
        if self.total_steps is not None:
            return progress.step, self.total_steps
        if budget.seconds is not None:
            return progress.seconds, budget.seconds
        return progress.forward_passes or 0, budget.forward_passes or 0

    def _passes_at_end(self, steps: int) -> int:
        """Batches that will have gone through the model at the end of a run of so many steps."""
        done = self.optimizer.num_passes(self.progress.step, total=steps)
        passes = self.optimizer.num_passes(steps) - done
        return (self.progress.forward_passes or 0) + passes * self.accumulate_steps


def check_same_data(setup: TrainingSetup, world: World) -> None:
    """Hold the data of processes that train together against the main one's.

    Raises:
        UserError: in all processes, when images or captions differ.
    """
    split = setup.train_set.split
    own = counted(setup.train_set.num_images, "image"), split.fingerprint() if not world.is_alone else ""
    of_all = world.of_all(own)
    for rank, (size, fingerprint) in enumerate(of_all):
        if (size, fingerprint) != of_all[0]:
            raise UserError(
                f"The processes read different data: process {rank} trains on {size} ({fingerprint}), the "
                f"main one on {of_all[0][0]} ({of_all[0][1]}). Give all of them the same files."
            )


def check_batches_fit(num_images: int, *, batch_size: int, accumulate_steps: int) -> None:
    """Hold the images of a batch, and of a step, against those of the training set.

    Raises:
        SettingError: when there are fewer images than one step takes.
    """
    if batch_size > num_images:
        raise SettingError(
            "trainer.batch_size",
            batch_size,
            f"is larger than the training set of {counted(num_images, 'image')}",
        )

    images_per_step = batch_size * accumulate_steps
    if images_per_step > num_images:
        raise SettingError(
            "trainer.accumulate_steps",
            accumulate_steps,
            f"asks for {counted(images_per_step, 'image')} per step, of {num_images:,}",
        )
