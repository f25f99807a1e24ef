"""In which steps of a run the weights are perturbed."""

import math
from typing import Any

import numpy as np
import torch

from miniclip.errors import at_least, in_range


class Ascents:
    """The steps with a perturbation: from a fraction of the run on every k-th, each with a probability.

    What is drawn is a function of torch's seed at the time this is made and of the step's number, and is
    part of the state.

    Args:
        interval: steps per perturbation, counted from the first one.
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

    def include(self, step: int, *, first: int) -> bool:
        """Whether the weights are perturbed in a step.

        Args:
            step: how many steps were taken before.
            first: how many were taken before perturbations began; see `has_begun`.
        """
        is_due = (step - first) % self.interval == 0
        return is_due and (self.probability == 1 or bool(self._drawn(step + 1)[step]))

    def has_begun(self, fraction_done: float) -> bool:
        return fraction_done >= self.start_fraction

    def count(self, steps: int, *, total: int) -> int:
        """Perturbations in the first steps of a run of a total of so many."""
        first = self._first_step(total)
        if self.probability == 1:
            return max(0, math.ceil((steps - first) / self.interval))
        return int(self._drawn(steps)[first :: self.interval].sum())

    def state_dict(self) -> dict[str, Any]:
        return {} if self.probability == 1 else {"seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seed = state.get("seed", self.seed)
        self._draws = np.empty(0)

    def _first_step(self, total: int) -> int:
        """The first step of a run that has begun, by the comparison of `has_begun`."""
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
