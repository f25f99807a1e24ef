"""Directions of SAM's perturbation."""

import random
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from miniclip.errors import SettingError, UserError, in_range
from miniclip.optim.norms import are_finite, is_on_host, length_of, norms_of

MOMENTA = ("exp_avg", "momentum_buffer")
"""Names under which torch's optimizers keep the running mean of the gradient."""

NUM_PLACES = 2**20
"""Where a step's slice of a table of random numbers may begin."""

Scale = float | Tensor
"""The factor () on a loss and its gradients, of a GradScaler."""


class Direction:
    """Where the weights are moved to: e = rho * d / ||d||.

    Attributes:
        needs_first_pass: whether d is made of the gradient at w. If not, a step has one pass, at w + e.
        is_gradient: whether d is that gradient itself.
        points_back: whether e points against d, also in groups whose loss is climbed.
        may_overwrite: whether the vectors may be worked on in place.
    """

    needs_first_pass: ClassVar[bool] = True
    is_gradient: ClassVar[bool] = False
    points_back: ClassVar[bool] = False
    may_overwrite: ClassVar[bool] = False

    def vectors(
        self, params: Sequence[Tensor], *, base: Optimizer, step: int, loss_scale: Scale
    ) -> dict[Tensor, Tensor]:
        """d of each parameter that has one; of any length.

        Args:
            params: to be moved; `.grad` is that of the first pass where there is one.
            base: the optimizer that moves them in the end.
            step: how many steps were taken before.
            loss_scale: the factor on the gradients.
        """
        raise NotImplementedError

    def end_step(self, params: Sequence[Tensor]) -> None:
        """See the gradients of all parameters that a step ended with, in `.grad`.

        Where one is not finite the step will be skipped, and leaves nothing that reaches to the next.
        """

    def state_dict(self, params: Sequence[Tensor]) -> dict[str, Any]:
        """What reaches from one step to the next."""
        return {}

    def load_state_dict(self, state: dict[str, Any], params: Sequence[Tensor]) -> None: ...


class Gradient(Direction):
    """d = g, the gradient at w: SAM (Foret et al. 2021, arXiv 2010.01412, eq. 2)."""

    is_gradient: ClassVar[bool] = True
    may_overwrite: ClassVar[bool] = True

    def vectors(
        self, params: Sequence[Tensor], *, base: Optimizer, step: int, loss_scale: Scale
    ) -> dict[Tensor, Tensor]:
        return {p: p.grad for p in params if p.grad is not None}


class Momentum(Direction):
    """d = -m, the base optimizer's momentum, in one pass: MSAM (Becker et al. 2024, arXiv 2401.12033).

    What differs from the authors' code: the weights rest at w between steps, not at w + e, so that
    evaluation and checkpoints need no care. The first step, without a momentum, is a plain one.

    Raises (in the second step):
        UserError: when the base optimizer keeps no momentum.
    """

    needs_first_pass: ClassVar[bool] = False
    # of a loss that is climbed torch keeps the momentum of its negative: no other sign is needed
    points_back: ClassVar[bool] = True

    def vectors(
        self, params: Sequence[Tensor], *, base: Optimizer, step: int, loss_scale: Scale
    ) -> dict[Tensor, Tensor]:
        # torch's SGD has no state at all without a momentum
        if step > 0 and any(group.get("momentum") == 0 for group in base.param_groups):
            raise self._refusal_of(base)
        return {p: self._momentum(base, p) for p in params if base.state.get(p)}

    def _momentum(self, base: Optimizer, p: Tensor) -> Tensor:
        state = base.state[p]
        for name in MOMENTA:
            if isinstance(state.get(name), Tensor):
                return state[name]
        raise self._refusal_of(base)

    def _refusal_of(self, base: Optimizer) -> UserError:
        kind = type(base).__name__
        return UserError(
            f"MSAM needs a base optimizer with momentum; {kind} keeps none. Give it one "
            "(optimizer.base.momentum=0.9 for SGD) or choose optimizer/base=adamw."
        )


class Averaged(Direction):
    """d = gradient * g + average * m, of the gradient at w and its exponential average m.

    Two papers with opposite signs: VaSSO (Li and Giannakis 2023; Li et al. 2025, arXiv 2509.02433) has 0
    and 1, the noise of the batches damped; F-SAM (Li et al. 2024, arXiv 2403.12350) has 1 and -sigma, with
    little but noise left.

        m = decay * m + (1 - decay) * g

    m starts with the first gradient, is of unscaled gradients of the steps that have a perturbation, and
    takes in none of a step that is skipped.
    What differs from F-SAM's code: m holds this step's gradient already, as in the paper's equation.

    Args:
        decay: of the average.
        gradient: weight of g.
        average: weight of m.

    Raises:
        SettingError: when the decay is out of range, or the weights cancel in every step.
    """

    def __init__(self, *, decay: float, gradient: float, average: float):
        in_range("decay", decay, 0, 1, includes_high=False)
        if gradient == average == 0 or (decay == 0 and gradient + average == 0):
            allowed = f"leaves no direction, with gradient={gradient} and decay={decay}"
            raise SettingError("average", average, allowed)
        self.decay = decay
        self.gradient = gradient
        self.average = average
        self._means: dict[Tensor, Tensor] = {}
        self._next: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def vectors(
        self, params: Sequence[Tensor], *, base: Optimizer, step: int, loss_scale: Scale
    ) -> dict[Tensor, Tensor]:
        is_plain = isinstance(loss_scale, float) and loss_scale == 1
        weight = self._weight()
        self._next = {}
        vectors: dict[Tensor, Tensor] = {}
        for p in params:
            if p.grad is None:
                continue
            gradient = p.grad if is_plain else p.grad / loss_scale
            of_type = weight.to(p) if isinstance(weight, Tensor) else weight
            mean = torch.lerp(self._means.get(p, gradient).to(p), gradient, of_type)
            self._next[p] = mean
            vectors[p] = self._combined(gradient, mean)
        return vectors

    @torch.no_grad()
    def end_step(self, params: Sequence[Tensor]) -> None:
        if self._next:
            _keep(self._next, self._means, params)
        self._next = {}

    def _weight(self) -> float | Tensor:
        """What a gradient weighs in the average: 1 where a first step was skipped and left zeros."""
        weight = 1 - self.decay
        means = list(self._means.values())
        if not means or is_on_host(means[0]):
            return weight
        return torch.where(length_of(norms_of(means)) > 0, weight, 1.0)

    def _combined(self, gradient: Tensor, mean: Tensor) -> Tensor:
        if self.gradient == 0 and self.average == 1:
            return mean
        weighted = gradient if self.gradient == 1 else gradient * self.gradient
        return torch.add(weighted, mean, alpha=self.average)

    def state_dict(self, params: Sequence[Tensor]) -> dict[str, Any]:
        return {"means": in_order(self._means, params)}

    def load_state_dict(self, state: dict[str, Any], params: Sequence[Tensor]) -> None:
        self._means = by_parameter(state.get("means", []), params)


class LastGradient(Direction):
    """d = the gradient that the step before ended with, in one pass (AsyncSAM, arXiv 2503.11147; S2-SAM).

    What differs from AsyncSAM: nothing runs beside the step; that gradient is one of w + e, as the steps'
    gradients are. The first step is a plain one. A gradient that is not finite is not kept, and a parameter
    that had none is not moved.
    """

    needs_first_pass: ClassVar[bool] = False

    def __init__(self) -> None:
        self._last: dict[Tensor, Tensor] = {}

    def vectors(
        self, params: Sequence[Tensor], *, base: Optimizer, step: int, loss_scale: Scale
    ) -> dict[Tensor, Tensor]:
        return {p: self._last[p].to(p) for p in params if p in self._last}

    @torch.no_grad()
    def end_step(self, params: Sequence[Tensor]) -> None:
        gradients = {p: p.grad.clone() for p in params if p.grad is not None}
        if gradients:
            _keep(gradients, self._last, params)
        self._last = {p: last for p, last in self._last.items() if p in gradients}

    def state_dict(self, params: Sequence[Tensor]) -> dict[str, Any]:
        return {"last": in_order(self._last, params)}

    def load_state_dict(self, state: dict[str, Any], params: Sequence[Tensor]) -> None:
        self._last = by_parameter(state.get("last", []), params)


class Random(Direction):
    """d drawn from a normal distribution, in one pass: the control that every other direction should beat.

    The numbers are drawn once, in a table a little longer than the weights, and each step takes its slice
    from another offset (as evolution strategies do, Salimans et al. 2017, arXiv 1703.03864): a CPU
    draws 26 M numbers in a quarter of a step. d is a function of torch's seed at the time this is made, of
    the step's number and of the order in which the weights lie in memory.
    """

    needs_first_pass: ClassVar[bool] = False

    def __init__(self) -> None:
        self.seed = torch.initial_seed()
        self._tables: dict[torch.device, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without the tables, which are drawn anew."""
        return {**vars(self), "_tables": {}}

    def vectors(
        self, params: Sequence[Tensor], *, base: Optimizer, step: int, loss_scale: Scale
    ) -> dict[Tensor, Tensor]:
        size = NUM_PLACES + sum(p.numel() for p in params)
        start = random.Random(f"{self.seed} {step}").randrange(NUM_PLACES)
        vectors: dict[Tensor, Tensor] = {}
        for p in params:
            part = self._table(size, p.device)[start : start + p.numel()]
            # as it lies in memory: in another order a CPU takes one number at a time
            strides = torch.empty_like(p, device="meta").stride()
            vectors[p] = part.to(p.dtype).as_strided(p.shape, strides)
            start += p.numel()
        return vectors

    def _table(self, size: int, device: torch.device) -> Tensor:
        if device not in self._tables or len(self._tables[device]) != size:
            generator = torch.Generator(device).manual_seed(self.seed % 2**63)
            self._tables[device] = torch.randn(size, device=device, generator=generator)
        return self._tables[device]

    def state_dict(self, params: Sequence[Tensor]) -> dict[str, Any]:
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, Any], params: Sequence[Tensor]) -> None:
        self.seed = state.get("seed", self.seed)
        self._tables = {}


def _keep(new: dict[Tensor, Tensor], kept: dict[Tensor, Tensor], params: Sequence[Tensor]) -> None:
    """Put new values in place of what is kept, unless the gradient of a parameter is not finite.

    Where nothing is kept so far, a device that is not asked keeps zeros.
    """
    is_finite = are_finite([p.grad for p in params if p.grad is not None])
    if is_on_host(is_finite):
        if is_finite:
            kept.update(new)
        return

    for p, value in new.items():  # the same choice without asking the device
        before = kept[p].to(p) if p in kept else 0
        kept[p] = torch.where(is_finite, value, before)


def in_order(kept: dict[Tensor, Tensor], params: Sequence[Tensor]) -> list[Tensor | None]:
    """What is kept for each parameter, as a state can hold it."""
    return [kept.get(p) for p in params]


def by_parameter(kept: Sequence[Tensor | None], params: Sequence[Tensor]) -> dict[Tensor, Tensor]:
    """The same, read back: of each parameter's device and type."""
    return {p: value.to(p).clone() for p, value in zip(params, kept, strict=False) if value is not None}
