"""Length of SAM's perturbation, in each group of parameters and each step."""

from collections.abc import Collection, Sequence
from typing import Any, Literal, get_args

from torch import Tensor

from miniclip.errors import SettingError, above_zero, at_least, one_of
from miniclip.optim.checks import check_rho

RhoSchedule = Literal["constant", "warmup", "lr"]

Groups = Sequence[dict[str, Any]]


class Lengths:
    """rho of each group, under one schedule, and no longer than what a loss budget allows.

    Args:
        rho: of groups without one of their own.
        schedule, warmup_steps, floor: see `SAM`'s `rho_schedule`. A learning rate of 0 is one that has
            fallen to it.
        loss_budget: by how much the loss may rise, to first order; None for no limit.

    Raises:
        SettingError: when one is out of range.
    """

    def __init__(
        self,
        *,
        rho: float,
        schedule: RhoSchedule,
        warmup_steps: int,
        floor: float,
        loss_budget: float | None,
    ):
        check_rho(rho)
        if not 0 <= floor <= 1:
            raise SettingError("rho_floor", floor, "is a fraction of rho and must lie between 0 and 1")
        at_least("rho_warmup_steps", warmup_steps, 1)
        one_of("rho_schedule", schedule, get_args(RhoSchedule))
        if loss_budget is not None:
            above_zero("loss_budget", loss_budget, hint="; null for no limit")
        self.rho = rho
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.floor = floor
        self.loss_budget = loss_budget

    def factor(self, groups: Groups, *, step: int) -> float:
        """What the schedule makes of every rho in a step, counted from where perturbations begin."""
        factor = 1.0
        if self.schedule == "warmup":
            factor = min(1.0, (step + 1) / self.warmup_steps)
        elif self.schedule == "lr":
            group = groups[0]
            initial: Any = group.get("initial_lr", group["lr"])
            factor = float(group["lr"]) / float(initial) if initial else 0.0
        return self.floor + (1 - self.floor) * factor

    def of_group(self, group: dict[str, Any]) -> float:
        """A group's rho before the schedule; 0 where it is not perturbed."""
        return group.get("rho", self.rho) if group.get("perturb", True) else 0.0

    def largest(self, groups: Groups, *, step: int) -> float:
        return max(self.of_group(group) * self.factor(groups, step=step) for group in groups)

    def signed(
        self, groups: Groups, perturbed: Collection[Tensor], *, step: int, rho: float | None = None
    ) -> dict[Tensor, float]:
        """For each perturbed parameter the length of its group, negative where the base climbs the loss.

        Args:
            rho: in place of the step's, in groups without one of their own.
        """
        factor = self.factor(groups, step=step)
        if rho is None:
            rho = self.rho * factor

        rhos: dict[Tensor, float] = {}
        for group in groups:
            length = group["rho"] * factor if "rho" in group else rho
            sign = -1 if group.get("maximize") else 1
            rhos |= {p: sign * length for p in group["params"] if p in perturbed}
        return rhos

    def budget_factor(self, groups: Groups, norm: Tensor) -> Tensor:
        """What the loss budget leaves of every length, from 0 to 1, (), for a gradient of this norm ()."""
        assert self.loss_budget is not None
        longest = max(self.of_group(group) for group in groups)
        return (self.loss_budget / (norm * longest).clamp(min=1e-30)).clamp(max=1)
