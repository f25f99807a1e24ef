"""In which steps of a run the weights are perturbed."""

import math
from typing import Any

import numpy as np
import torch

from miniclip.errors import at_least, in_range


class Ascents:
    """The steps with a perturbation: every k-th, from a fraction of the run on, each with a probability.

    What is drawn is a function of torch's seed at the time this is made and of the step's number, and is
    part of the state.

    Args:
        interval: steps per perturbation.
        start_fraction: fraction of the run before the first one.
        probability: of a perturbation in each step that is left by both.

    Raises:
        SettingError: when one is out of range.
    """

    def __init__(self, *, interval: int, start_fraction: float, probability: float):
        at_least("interval", interval, 1)
        in_range("start_fraction", start_fraction, 0, 1)
        in_range("probability", probability, 0, 1)
        self.interval = interval
        self.start_fraction = start_fraction
        self.probability = probability
        self.seed = torch.initial_seed()
        self._draws = np.empty(0)

    def include(self, step: int, *, fraction_done: float) -> bool:
        """Whether the weights are perturbed in a step.

        Args:
            step: how many steps were taken before.
            fraction_done: fraction of the run that is over.
        """
        is_due = step % self.interval == 0 and self.has_begun(fraction_done)
        return is_due and (self.probability == 1 or bool(self._drawn(step + 1)[step]))

    def has_begun(self, fraction_done: float) -> bool:
        return fraction_done >= self.start_fraction

    def count(self, steps: int, *, total: int) -> int:
        """Perturbations in the first steps of a run of a total of so many."""
        first = self._first_step(total)
        if self.probability == 1:
            # multiples of the interval below each
            return max(0, math.ceil(steps / self.interval) - math.ceil(first / self.interval))

        due = np.arange(steps) % self.interval == 0
        due[:first] = False
        return int((due & self._drawn(steps)).sum())

    def state_dict(self) -> dict[str, Any]:
        return {} if self.probability == 1 else {"seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seed = state.get("seed", self.seed)
        self._draws = np.empty(0)

    def _first_step(self, total: int) -> int:
        """The first step of a run that `include` sees begun, by its own comparison."""
        if self.start_fraction == 0:
            return 0
        step = max(0, math.floor(self.start_fraction * total) - 1)
        while step < total and not self.has_begun(step / total):
            step += 1
        return step

    def _drawn(self, steps: int) -> np.ndarray:
        """Whether each of the first steps, (steps,), was drawn."""
        if len(self._draws) < steps:
            generator = np.random.default_rng(self.seed % 2**63)
            self._draws = generator.random(max(1024, 2 * steps))
        return self._draws[:steps] < self.probability
