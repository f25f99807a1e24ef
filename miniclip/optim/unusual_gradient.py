"""Perturbing only where the gradient is unusually long."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from miniclip.errors import in_range
from miniclip.optim.norms import are_finite


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
        self._next: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def is_met(self, norm: Tensor, *, fraction_done: float) -> bool:
        """Whether a step's gradient, whose unscaled norm () this is, is one to perturb along."""
        if not norm.isfinite():  # the step will be skipped, and nothing of it is kept
            return False

        square = norm.double().square()
        mean, variance = self._next = self._with(square)
        c = self.high + (self.low - self.high) * fraction_done
        return bool(square >= mean + c * variance.sqrt())

    def end_step(self, params: Sequence[Tensor]) -> None:
        """Keep mean and variance, unless a gradient is not finite, whose step will be skipped."""
        if self._next is not None and are_finite([p.grad for p in params if p.grad is not None]):
            self._mean, self._variance = self._next
        self._next = None

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self._mean, "variance": self._variance}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._mean, self._variance = state.get("mean"), state.get("variance")

    def _with(self, square: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance once they have moved towards a squared norm, each ()."""
        if self._mean is None or self._variance is None:
            return square, torch.zeros_like(square)

        mean = self._mean.to(square.device).lerp(square, 1 - self.decay)
        deviation = (square - mean).square()
        return mean, self._variance.to(square.device).lerp(deviation, 1 - self.decay)
