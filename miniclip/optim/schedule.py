"""Learning-rate schedules: pure functions of how far a run is, so there is no state to save or lose."""

import math
from typing import Protocol

from torch.optim import Optimizer

from miniclip.errors import SettingError
from miniclip.optim.passes import PassOptimizer


class Schedule(Protocol):
    """Says by which factor the learning rate is multiplied when `done` of `total` updates are done.

    Any other unit will do in place of updates, milliseconds say.
    """

    def factor(self, done: int, total: int) -> float: ...


class WarmupCosine:
    """Linear rise over the first part, then half a cosine down to the last factor.

    Args:
        warmup_fraction: share of all updates in the rise.
        final_factor: factor at the end.
    """

    def __init__(self, *, warmup_fraction: float, final_factor: float):
        if not 0 <= warmup_fraction < 1:
            raise SettingError("warmup_fraction", warmup_fraction, "must lie in 0 <= fraction < 1")
        if not 0 <= final_factor <= 1:
            raise SettingError("final_factor", final_factor, "must lie between 0 and 1")
        self.warmup_fraction = warmup_fraction
        self.final_factor = final_factor

    def factor(self, done: int, total: int) -> float:
        warmup = round(self.warmup_fraction * total)
        if done < warmup:
            return (done + 1) / warmup
        progress = min(1.0, (done - warmup) / max(1, total - warmup))
        cosine = (1 + math.cos(math.pi * progress)) / 2
        return self.final_factor + (1 - self.final_factor) * cosine


class Constant:
    """The same learning rate throughout."""

    def factor(self, done: int, total: int) -> float:
        return 1.0


def scale_learning_rates(optimizer: Optimizer) -> None:
    """Give groups with an `lr_factor` their share of the learning rate they were made with."""
    for group in optimizer.param_groups:
        group["lr"] *= group.get("lr_factor", 1.0)


def set_learning_rate(optimizer: Optimizer | PassOptimizer, factor: float) -> None:
    """Give every group `factor` times the learning rate it was made with."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
        group["lr"] = group["initial_lr"] * factor
