"""Progress of a run: plain data in every checkpoint, and how it is shown."""

import time
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

SCALER_STEPS = 4
"""Under float16 the first steps may be skipped, until the gradients' scale is found."""


@dataclass
class Progress:
    """Counts of a run: epochs, steps, images, seconds, and the best validation.

    Positions are counted in images, so that they keep their meaning when a resumed run has another batch
    size. A validation is due from the moment its epoch ends until it is done, so that one that was
    interrupted is made up for, and one that never was is not invented.

    Attributes:
        epoch: epochs completed.
        position: images of the next epoch already trained on.
        step: optimizer steps done, skipped ones included.
        forward_passes: batches that went through the model in training; None in a checkpoint that did not
            count them.
        seconds: spent on training, validation left out.
        total_seconds: spent on the run, over all its parts.
        images: trained on, each as often as it came.
        skipped_steps: steps skipped because a gradient or a running statistic was not finite.
        skipped_in_a_row: of these, the ones since the last step that was not.
        broken: what is wrong with training images that cannot be read, and the reason in a word.
        validations: validations done.
        validated_step: step of the last validation; 0 before the first.
        validation_due: whether the weights are still to be validated before training goes on.
        best: the validation record with the highest rsum, of equal ones with the lowest loss.
    """

    epoch: int = 0
    position: int = 0
    step: int = 0
    forward_passes: int | None = 0
    seconds: float = 0.0
    total_seconds: float = 0.0
    images: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    validations: int = 0
    validated_step: int = 0
    validation_due: bool = False
    best: dict[str, Any] | None = None

    @property
    def epochs_begun(self) -> int:
        """Epochs completed, and the one that is under way."""
        return self.epoch + int(self.position > 0)

    @property
    def is_untrained(self) -> bool:
        """Whether all steps so far were skipped, so that the weights are those that the run began with.

        Of fewer than `SCALER_STEPS` nothing is said.
        """
        return SCALER_STEPS <= self.step <= self.skipped_steps

    @property
    def images_per_second(self) -> float:
        """Images trained on per second of training."""
        return self.images / max(self.seconds, 1e-9)

    @property
    def cost(self) -> dict[str, float]:
        """What the run has cost so far, as records have it."""
        return {"train/seconds": self.seconds, "train/forward_passes": self.forward_passes or 0}

    def state_dict(self) -> dict[str, Any]:
        """All counts as plain data."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where another progress stood."""
        vars(self).update(vars(Progress(**state)))


class Stopwatch:
    """Seconds since it was made, and those that passed in an earlier part of the run.

    Args:
        before: seconds of the earlier part.
    """

    def __init__(self, before: float = 0.0):
        self.before = before
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self._started


def image_bar(text: str, *, num_images: int, done: int = 0) -> tqdm:
    """A bar over images; nothing where the output is no terminal."""
    return tqdm(total=num_images, initial=done, desc=text, unit="img", leave=False, disable=None)
