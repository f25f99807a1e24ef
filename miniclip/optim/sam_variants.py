"""SAM's family: other gradients from the same two passes, or from fewer of them.

What holds for `SAM` holds for each: any base optimizer, scaled gradients, exact weights, skipped
overflows, frozen statistics, and a state dict that goes on in the middle of a cycle.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from miniclip.errors import SettingError, UserError
from miniclip.optim.passes import Closure, run_pass
from miniclip.optim.sam import (
    SAM,
    Base,
    Params,
    inner_product,
    is_on_host,
    length_of,
    norms_of,
)

MOMENTA = ("exp_avg", "momentum_buffer")
"""Names under which torch's optimizers keep the running mean of the gradient."""


class GSAM(SAM):
    """Surrogate-gap guided SAM (Zhuang et al. 2022, arXiv 2203.08065, algorithm 1).

    Besides L(w + e) it lowers the gap L(w + e) - L(w): the part of g = grad L(w) that is orthogonal to
    g_p = grad L(w + e) is climbed,

        gradient = g_p - alpha * (g - <g, g_p> / ||g_p||^2 * g_p)

    The paper's schedule of rho, falling with the learning rate to a floor, is `rho_schedule="lr"`.

    Args:
        alpha: weight of the orthogonal part; 0 is SAM.
        sam_settings: see `SAM`.
    """

    keeps_first_gradient: ClassVar[bool] = True

    def __init__(self, params: Params, base: Base, *, alpha: float = 0.4, **sam_settings: Any):
        super().__init__(params, base, **sam_settings)
        self.alpha = _at_least_zero("alpha", alpha)

    @torch.no_grad()
    def _after_second_pass(self, first: dict[Tensor, Tensor]) -> None:
        pairs = _pairs(first)
        share = _share(pairs, of=[g_p for _, g_p in pairs])
        for g, g_p in pairs:
            g_p.mul_(1 + self.alpha * share.to(g.dtype)).sub_(g, alpha=self.alpha)


class LookSAM(SAM):
    """SAM whose ascent is reused for `every` updates (Liu et al. 2022, arXiv 2203.02714, algorithm 1).

    The part of SAM's gradient that is orthogonal to the plain one changes slowly. It is kept, and in the
    updates between it is added to the plain gradient g at alpha times its length:

        gradient = g + alpha * ||g|| / ||g_v|| * g_v

    With `interval` 1 it is SAM. An update that overflows leaves the kept part as it was.

    Args:
        alpha: length of the added part over that of the plain gradient.
        interval: the paper's k.
        sam_settings: see `SAM`.
    """

    keeps_first_gradient: ClassVar[bool] = True

    def __init__(
        self, params: Params, base: Base, *, alpha: float = 0.7, interval: int = 5, **sam_settings: Any
    ):
        super().__init__(params, base, interval=interval, **sam_settings)
        self.alpha = _at_least_zero("alpha", alpha)
        self._kept: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def _after_second_pass(self, first: dict[Tensor, Tensor]) -> None:
        if self.interval == 1:
            return
        pairs = _pairs(first)
        share = _share(pairs, of=[g for g, _ in pairs])
        # the share is finite only if both gradients are, in each of their elements
        is_finite = share.isfinite()
        asked = is_on_host(share)
        if asked and not is_finite:
            return
        for (g, g_s), p in zip(pairs, _with_both(first), strict=True):
            if p not in self._kept:
                self._kept[p] = torch.zeros_like(p)
            minus_share = -share.to(g.dtype)
            if asked:
                torch.addcmul(g_s, g, minus_share, out=self._kept[p])
            else:
                kept = torch.where(is_finite, torch.addcmul(g_s, g, minus_share), self._kept[p])
                self._kept[p].copy_(kept)
        self._kept_length = length_of(norms_of(list(self._kept.values())))

    @torch.no_grad()
    def _between_ascents(self) -> None:
        pairs = [(p.grad, kept) for p, kept in self._kept.items() if p.grad is not None]
        if not pairs:
            return
        length = length_of(norms_of([g for g, _ in pairs]))
        ratio = self.alpha * length / self._kept_length.clamp(min=1e-30)
        for g, kept in pairs:
            g.addcmul_(kept, ratio.to(g.dtype))

    def _own_state(self) -> dict[str, Any]:
        kept = [self._kept.get(p) for p in self._all_params()]
        return {**super()._own_state(), "kept": kept}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        super()._load_own_state(state)
        kept = zip(self._all_params(), state.get("kept", []), strict=False)
        self._kept = {p: value.to(p).clone() for p, value in kept if value is not None}
        if self._kept:
            self._kept_length = length_of(norms_of(list(self._kept.values())))


class MSAM(SAM):
    """Momentum-SAM (Becker et al. 2024, arXiv 2401.12033, eq. 6): one pass, at the cost of a plain step.

    The perturbation points along the momentum m that the base optimizer keeps, against its last steps:

        e = -rho * m / ||m||

    There is no first pass, so the loss is that of w + e, and batch-norm statistics are gathered there.
    What differs from the authors' code: the weights rest at w between updates, not at w + e, so that
    evaluation and checkpoints need no care. The first update, without a momentum, is a plain one.

    Raises (in the second update):
        UserError: when the base optimizer keeps no momentum.
    """

    def num_passes(self, steps: int) -> int:
        """One per step."""
        return steps

    def _both_passes(self, closure: Closure, *, measured: bool) -> Tensor:
        # of a loss that is climbed torch keeps the momentum of its negative: no sign is needed
        rhos = self._signed_rhos(self.current_rho())
        momenta = {p: self._momentum(p) for p in rhos if self.state.get(p)}
        if not momenta:
            self.last_rho = 0.0
        with torch.no_grad():
            directions = list(momenta.values())
            if self.adaptive:  # which overwrites them
                directions = [m.clone() for m in directions]
            if momenta:
                self._move(list(momenta), directions, [-abs(rhos[p]) for p in momenta])
        try:
            return run_pass(closure, 0)
        finally:
            self.descend()

    def _momentum(self, p: Tensor) -> Tensor:
        state = self.state[p]
        for name in MOMENTA:
            if isinstance(state.get(name), Tensor):
                return state[name]
        kind = type(self.base_optimizer).__name__
        raise UserError(
            f"MSAM needs a base optimizer with momentum; {kind} keeps none. Give it one "
            "(optimizer.base.momentum=0.9 for SGD) or choose optimizer/base=adamw."
        )


def _with_both(first: dict[Tensor, Tensor]) -> list[Tensor]:
    return [p for p in first if p.grad is not None]


def _pairs(first: dict[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """First and second gradient of each parameter that has both."""
    return [(first[p], p.grad) for p in _with_both(first)]  # type: ignore[misc]


def _share(pairs: list[tuple[Tensor, Tensor]], *, of: list[Tensor]) -> Tensor:
    """<a, b> over ||of||^2, all tensors together, (): how much of one vector lies along the other."""
    product = torch.stack([inner_product(a, b) for a, b in pairs]).sum()
    return product / length_of(norms_of(of)).square().clamp(min=1e-30)


def _at_least_zero(setting: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise SettingError(setting, value, "must be at least 0 and finite")
    return value
