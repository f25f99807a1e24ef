"""Learning-rate schedules: pure functions of the steps that are done, with no state to save or lose."""

import math
from typing import Literal, Protocol, get_args

from torch.optim import Optimizer

from miniclip.errors import in_range, one_of
from miniclip.optim.passes import PassOptimizer

DecayShape = Literal["linear", "cosine", "sqrt"]


class Schedule(Protocol):
    """Factor of the learning rate when `done` of `total` steps are done.

    Any other unit will do in place of steps, milliseconds say.
    """

    def factor(self, done: int, total: int) -> float: ...


class WarmupCosine:
    """Linear rise over the first part, then half a cosine down to the last factor.

    Args:
        warmup_fraction: fraction of all steps in the rise.
        final_factor: factor at the end.
    """

    def __init__(self, *, warmup_fraction: float, final_factor: float):
        in_range("warmup_fraction", warmup_fraction, 0, 1, includes_high=False)
        in_range("final_factor", final_factor, 0, 1)
        self.warmup_fraction = warmup_fraction
        self.final_factor = final_factor

    def factor(self, done: int, total: int) -> float:
        warmup = round(self.warmup_fraction * total)
        if done < warmup:
            return (done + 1) / warmup

        progress = min(1.0, (done - warmup) / max(1, total - warmup))
        cosine = (1 + math.cos(math.pi * progress)) / 2
        return self.final_factor + (1 - self.final_factor) * cosine


class WarmupStableDecay:
    """Linear rise over the first part, the full rate, then a decay over the last part.

    The schedule of Hu et al. 2024, arXiv 2404.06395. With x from 0 to 1 over the decay, the factor falls to
    the last one as 1 - x ("linear"), as half a cosine ("cosine"), or as 1 - sqrt(x) ("sqrt", Haegele et
    al. 2024, arXiv 2405.18392).

    Args:
        warmup_fraction: fraction of all steps in the rise.
        decay_fraction: fraction of all steps in the decay; both together at most 1.
        decay_shape: "linear", "cosine" or "sqrt".
        final_factor: factor at the end.
    """

    def __init__(
        self, *, warmup_fraction: float, decay_fraction: float, decay_shape: DecayShape, final_factor: float
    ):
        in_range("warmup_fraction", warmup_fraction, 0, 1, includes_high=False)
        # in binary 1 - 0.8 is less than 0.2
        left = round(1 - warmup_fraction, 9)
        in_range("decay_fraction", decay_fraction, 0, left, high_is="1 - warmup_fraction")
        one_of("decay_shape", decay_shape, get_args(DecayShape))
        in_range("final_factor", final_factor, 0, 1)
        self.warmup_fraction = warmup_fraction
        self.decay_fraction = decay_fraction
        self.decay_shape = decay_shape
        self.final_factor = final_factor

    def factor(self, done: int, total: int) -> float:
        warmup = round(self.warmup_fraction * total)
        if done < warmup:
            return (done + 1) / warmup

        decay = min(round(self.decay_fraction * total), total - warmup)
        begin = total - decay
        if done < begin or decay == 0:
            return 1.0

        progress = min(1.0, (done - begin) / decay)
        return self.final_factor + (1 - self.final_factor) * self._remaining(progress)

    def _remaining(self, progress: float) -> float:
        """What the shape leaves of the decay at a fraction of it, from 1 to 0."""
        if self.decay_shape == "cosine":
            return (1 + math.cos(math.pi * progress)) / 2
        return 1 - (math.sqrt(progress) if self.decay_shape == "sqrt" else progress)


class Constant:
    """The same learning rate throughout."""

    def factor(self, done: int, total: int) -> float:
        return 1.0


def scale_learning_rates(optimizer: Optimizer) -> None:
    """Give groups with an `lr_factor` that fraction of the learning rate they were made with."""
    for group in optimizer.param_groups:
        group["lr"] *= group.get("lr_factor", 1.0)


def set_learning_rate(optimizer: Optimizer | PassOptimizer, factor: float) -> None:
    """Give every group `factor` times the learning rate it was made with."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
        group["lr"] = group["initial_lr"] * factor
