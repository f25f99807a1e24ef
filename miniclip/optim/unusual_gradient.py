"""Perturbing only where the gradient is unusually long."""

from typing import Any

import torch
from torch import Tensor

from miniclip.errors import in_range


class UnusualGradient:
    """Asks for the second pass when the squared norm of the first one's gradient is large (AE-SAM).

    Jiang et al. 2023, arXiv 2304.14647: with running mean and variance of ||g||^2,

        ||g||^2 >= mean + c * standard deviation,    c from `high` to `low` over the run

    so that few steps have a second pass at first, and most of them in the end. What differs: the first step
    sets the mean. The host waits for the device once per step.

    Args:
        decay: of mean and variance.
        low: c at the end of the run, the paper's lambda_1.
        high: c at its start, the paper's lambda_2.
    """

    def __init__(self, *, decay: float = 0.9, low: float = -1.0, high: float = 1.0):
        in_range("decay", decay, 0, 1, includes_high=False)
        self.decay = decay
        self.low = low
        self.high = high
        self._mean: Tensor | None = None
        self._variance: Tensor | None = None

    @torch.no_grad()
    def is_met(self, norm: Tensor, *, fraction_done: float) -> bool:
        """Whether a step's gradient, whose unscaled norm () this is, is one to perturb along."""
        if not norm.isfinite():  # the step will be skipped, and nothing of it is kept
            return False

        square = norm.double().square()
        self._add(square)
        assert self._mean is not None and self._variance is not None
        c = self.high + (self.low - self.high) * fraction_done
        return bool(square >= self._mean + c * self._variance.sqrt())

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self._mean, "variance": self._variance}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._mean, self._variance = state.get("mean"), state.get("variance")

    def _add(self, square: Tensor) -> None:
        """Move mean and variance towards a squared norm, ()."""
        if self._mean is None or self._variance is None:
            self._mean, self._variance = square, torch.zeros_like(square)
            return
        mean = self._mean.to(square.device)
        self._mean = mean + (1 - self.decay) * (square - mean)
        deviation = (square - self._mean).square()
        self._variance = self.decay * self._variance.to(square.device) + (1 - self.decay) * deviation
