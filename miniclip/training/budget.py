"""Budget of a run: epochs, steps, forward passes or minutes."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, fields

from miniclip.errors import UserError, above_zero


@dataclass(frozen=True)
class Budget:
    """The length of training; the schedules of learning rate and rho end with it.

    Args:
        epochs: passes over the training images; counts where none of the others is given.
        steps: optimizer steps.
        forward_passes: batches that go through the model: SAM needs two per step. The run ends with the
            last step that they suffice for; with an optimizer that decides within each step, as AE-SAM
            does, with the step that reaches them.
        minutes: of training, by the clock; validation is left out.

    Raises:
        SettingError: when a number is not above zero.
        UserError: when two of steps, forward_passes and minutes are given.
    """

    epochs: int
    steps: int | None = None
    forward_passes: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        given = {name: value for name, value in given.items() if value is not None}
        for name, value in given.items():
            above_zero(f"budget.{name}", value)

        # epochs count only where nothing else is given, so they contradict nothing
        others = [f"trainer.budget.{name}={value}" for name, value in given.items() if name != "epochs"]
        if len(others) > 1:
            raise UserError(f"{' and '.join(others)} cannot both end a run; set all but one to null.")

    @property
    def seconds(self) -> float | None:
        """The time of training, where that is what ends it."""
        return None if self.minutes is None else 60 * self.minutes

    def total_steps(self, *, steps_of_epochs: int, passes_at: Callable[[int], int] | None) -> int | None:
        """Steps until the end; None where only the run tells, by the clock or by the passes it takes.

        Args:
            steps_of_epochs: steps after which all epochs are completed.
            passes_at: forward passes after so many steps; None where that is not known before.
        """
        if self.minutes is not None:
            return None
        if self.forward_passes is not None:
            if passes_at is None:
                return None
            # the largest number of steps that the passes suffice for; a step takes one at least
            candidates = range(self.forward_passes + 1)
            return bisect_right(candidates, self.forward_passes, key=passes_at) - 1
        return steps_of_epochs if self.steps is None else self.steps
