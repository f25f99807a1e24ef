"""Sharpness-Aware Minimization (Foret et al. 2021, arXiv 2010.01412), safe under mixed precision.

One update minimises the loss at the worst point near the weights, found to first order:

    e = rho * g / ||g||          first pass: gradient g at w, perturbation e (eq. 2)
    w <- base(w, grad L(w + e))  second pass: gradient at w + e, applied at w

What differs from the public implementations: the weights come back bit for bit, because they are
copied and not subtracted; storage is never swapped; a gradient that is not finite in either pass leaves
a gradient that is not finite, so that a GradScaler or `miniclip.training.Precision` skips the update;
batch-norm statistics and dropout masks of the second pass are those of the first; the number of updates
is part of the state, so that a cycle of several goes on where it was.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from miniclip.errors import SettingError, UserError
from miniclip.optim.passes import Closure, run_pass
from miniclip.optim.randomness import Randomness
from miniclip.optim.skipped import forget_skipped_state
from miniclip.optim.statistics import frozen_statistics, warning_of_moving_statistics

Params = Iterable[Tensor] | Iterable[dict[str, Any]]
Base = Callable[..., Optimizer]

RhoSchedule = Literal["constant", "warmup", "lr"]

LOW_PRECISION = (torch.float16, torch.bfloat16)

NORM_LAYERS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class SAM(Optimizer):
    """One-step SAM around any base optimizer.

    Alone:

        optimizer = SAM(model.parameters(), torch.optim.AdamW, lr=1e-3, rho=0.05, model=model)
        loss = optimizer.step(closure)

    With a GradScaler, `backward` leaves scaled gradients for the usual sequence:

        loss = optimizer.backward(closure)      # the closure calls scaler.scale(loss).backward()
        scaler.unscale_(optimizer.base_optimizer)
        scaler.step(optimizer.base_optimizer)
        scaler.update()

    Neither needs to unscale between the passes: g / ||g|| does not depend on the scale.

    Where autocast stands does not matter, in the closure or around `step(closure)`.

    Args:
        params: parameters or parameter groups. A group with `perturb: False` or `rho: 0` is trained, not
            perturbed. A group with a `rho` of its own moves by that times its part of the direction,
            e = rho_group * g / ||g||, where ||g|| is that of all perturbed groups together (with `adaptive`
            relative to the weights, with `per_layer` that of each tensor), and under the one schedule.
            Groups that the base climbs (`maximize: True`) are moved down the loss, to their worst point.
        base: makes the base optimizer from parameter groups.
        rho: length of the perturbation; 0 turns the second pass off, which is the base optimizer.
        per_layer: give each parameter tensor a perturbation of length rho, instead of all together.
        adaptive: measure the length relative to the weights, e = rho * w^2 g / ||w g|| (ASAM, Kwon et
            al. 2021, arXiv 2102.11600, eq. 4 with T_w = |w|, so that a rescaled layer changes nothing).
        norms_only: perturb the gains and biases of norm layers only (SAM-ON, Mueller et al. 2023, arXiv
            2306.04226). The first pass computes no gradient of any other weight, which makes a step cost
            5/3 instead of 2 plain ones; that part is ours. Needs `model`.
        interval: perturb in the first of so many updates; in those between, the base optimizer runs alone.
        rho_schedule: "constant"; "warmup", linear over `rho_warmup_steps` updates; or "lr", in
            proportion to the learning rate of the first group.
        rho_warmup_steps: updates until rho is reached under "warmup".
        rho_floor: what the schedule starts from, or falls to, as a share of rho.
        measure_every: updates between those that measure `metrics` in full; null never does.
        model: its buffers, as batch norm's statistics are, are held still in the second pass. Without it
            they move twice an update, which the first one warns of.
        base_settings: further settings of the base optimizer.

    Attributes:
        last_rho: length of the last update's perturbation, the largest of all groups; 0 where there
            was none.
        metrics: of the last update, tensors () on the device. After a second pass `sharpness`,
            L(w + e) - L(w), which is negative under `maximize`; every `measure_every` updates also
            `perturbation_norm` and `gradient_cosine`, between the gradients of the two passes (with
            `adaptive`, both relative to the weights).

    Raises:
        SettingError: when rho is negative or another number out of its range or not finite, when
            `norms_only` finds no norm layer, or when the base evaluates the loss itself, as LBFGS does.
    """

    keeps_first_gradient: ClassVar[bool] = False
    """Whether `_after_second_pass` needs the gradient of the first pass: one more copy of the weights."""

    def __init__(
        self,
        params: Params,
        base: Base,
        *,
        rho: float = 0.05,
        per_layer: bool = False,
        adaptive: bool = False,
        norms_only: bool = False,
        interval: int = 1,
        rho_schedule: RhoSchedule = "constant",
        rho_warmup_steps: int = 100,
        rho_floor: float = 0.0,
        measure_every: int | None = 10,
        model: nn.Module | None = None,
        **base_settings: Any,
    ):
        _check_rho(rho)
        if not 0 <= rho_floor <= 1:
            raise SettingError("rho_floor", rho_floor, "is a share of rho and must lie between 0 and 1")
        for setting, value in (
            ("interval", interval),
            ("rho_warmup_steps", rho_warmup_steps),
            ("measure_every", measure_every),
        ):
            if value is not None and value < 1:
                raise SettingError(setting, value, "must be at least 1")
        if rho_schedule not in ("constant", "warmup", "lr"):
            raise SettingError("rho_schedule", rho_schedule, "must be constant, warmup or lr")
        if norms_only and model is None:
            raise SettingError("norms_only", norms_only, "needs the model, to know its norm layers")

        super().__init__(params, {})
        self.rho = rho
        self.per_layer = per_layer
        self.adaptive = adaptive
        self.interval = interval
        self.rho_schedule = rho_schedule
        self.rho_warmup_steps = rho_warmup_steps
        self.rho_floor = rho_floor
        self.measure_every = measure_every
        self.model = model
        self.num_updates = 0
        self.last_rho = 0.0
        self.metrics: dict[str, Tensor] = {}
        self._only = _norm_params(model) if norms_only and model is not None else None
        self._saved: dict[Tensor, Tensor] = {}
        self._ascended: list[Tensor] = []
        self._has_looked_for_statistics = False

        self.base_optimizer = base(self.param_groups, **base_settings)
        _require_plain_step(self.base_optimizer)
        self._share_base()
        for group in self.param_groups:
            check_group(group)
        if norms_only and not any(p.requires_grad for p in self.perturbed_params()):
            names = ", ".join(layer.__name__.lstrip("_") for layer in NORM_LAYERS)
            raise SettingError(
                "norms_only", norms_only, f"finds no norm layer to perturb in the model (a kind of {names})"
            )

    def step(self, closure: Closure | None = None) -> Tensor | None:  # type: ignore[override]
        """One update. With a closure both passes run first; without, `backward` has been called."""
        loss = None if closure is None else self.backward(closure)
        self.base_optimizer.step()
        return loss

    def backward(self, closure: Closure) -> Tensor:
        """Run the passes: `.grad` ends as the gradient to apply, the weights end as they were.

        Returns:
            the loss of the first pass, at w.

        Raises:
            UserError: when the closure returns no tensor, or leaves sparse gradients or none at all.
        """
        # torch's schedulers ask whether the optimizer has begun; a GradScaler steps the base alone
        self._opt_called = True
        # an autocast around this call would keep low-precision copies of the weights before the last step
        torch.clear_autocast_cache()
        self.zero_grad()
        self.metrics = {}

        rho = self._largest_rho()
        ascends = rho > 0 and self.num_updates % self.interval == 0
        self.last_rho = rho if ascends else 0.0
        if ascends:
            loss = self._both_passes(closure, measured=self._measures_now())
        else:
            loss = run_pass(closure, 0)
            if rho > 0:
                self._between_ascents()

        self.num_updates += 1
        return loss

    def current_rho(self) -> float:
        """Length of the next update's perturbation, in groups without a `rho` of their own."""
        return self.rho * self._rho_factor()

    @torch.no_grad()
    def ascend(self, rho: float | None = None) -> Tensor:
        """Save the weights and move them to w + e. Returns the gradient's norm, finite or not, ().

        Args:
            rho: in place of the current one.
        """
        rhos = self._signed_rhos(self.current_rho() if rho is None else rho)
        params = [p for p in rhos if p.grad is not None]
        gradients: list[Tensor] = [p.grad for p in params]  # type: ignore[misc]
        return self._move(params, gradients, [rhos[p] for p in params])

    @torch.no_grad()
    def descend(self) -> None:
        """Copy the saved weights back, exactly, whether or not they had a second gradient."""
        if self._ascended:
            torch._foreach_copy_(self._ascended, [self._saved[p] for p in self._ascended])
        self._ascended = []
        torch.clear_autocast_cache()

    def num_passes(self, steps: int) -> int:
        """Forward passes that so many steps take, counted from the first one."""
        perturbs = any(self._rho_of(group) > 0 for group in self.param_groups)
        return steps + (math.ceil(steps / self.interval) if perturbs else 0)

    @property
    def host_metrics(self) -> dict[str, float]:
        """The length of the last step's perturbation; see `PassOptimizer`."""
        return {"rho": self.last_rho}

    def perturbed_params(self) -> Iterator[Tensor]:
        """The parameters that take part in the perturbation."""
        for group in self.param_groups:
            if group.get("perturb", True) and group.get("rho") != 0:
                yield from (p for p in group["params"] if self._only is None or p in self._only)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Train further parameters, with the settings of the base optimizer where the group names none."""
        if "base_optimizer" not in vars(self):  # in the constructor, which makes the base of all groups
            super().add_param_group(param_group)
            return
        check_group(param_group)
        self.base_optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state, and under "sam" what reaches from one update to the next."""
        return {**self.base_optimizer.state_dict(), "sam": self._own_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state; one of the base optimizer alone starts SAM's cycle anew."""
        base_state = dict(state_dict)
        own_state = base_state.pop("sam", {"num_updates": 0})
        self.base_optimizer.load_state_dict(base_state)
        self._share_base()
        self._load_own_state(own_state)

    def __getstate__(self) -> dict[str, Any]:
        """All but hooks and working memory, so that a copy, with its model, goes on as the original."""
        return copied_state(self, without=("_saved",))

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({"_saved": {}, **state})
        self._share_base()

    def _both_passes(self, closure: Closure, *, measured: bool) -> Tensor:
        randomness = Randomness(self._all_params())
        with self._gradients_of_perturbed_only():
            loss = run_pass(closure, 0)
        self._check_gradients()
        first = self._first_gradients() if self.keeps_first_gradient else {}

        norm = self.ascend()
        try:
            self.zero_grad()
            randomness.restore()
            with self._held_statistics():
                perturbed_loss = run_pass(closure, 1)
            self.metrics["sharpness"] = perturbed_loss.detach() - loss.detach()
            if measured and self._ascended:
                self._measure()
        finally:
            self.descend()

        if first:
            self._after_second_pass(first)
        self._mark_overflow(norm)
        return loss

    def _check_gradients(self) -> None:
        """Raise where the first pass left nothing to perturb along."""
        gradients = [p.grad for p in self._all_params() if p.grad is not None]
        if any(gradient.layout is not torch.strided for gradient in gradients):
            raise UserError("SAM needs dense gradients: make the embeddings with sparse=False.")
        if all(p.grad is None for p in self.perturbed_params()):
            raise UserError(
                "No parameter that SAM may perturb has a gradient: the closure must call backward() on its "
                "loss."
            )

    def _held_statistics(self) -> AbstractContextManager[None]:
        """Context of the second pass; without the model its first one says what would have to be held."""
        if self.model is not None or self._has_looked_for_statistics:
            return frozen_statistics(self.model)
        self._has_looked_for_statistics = True
        return warning_of_moving_statistics()

    def _measures_now(self) -> bool:
        """Whether this is the first update with a perturbation since a measurement is due."""
        return self.measure_every is not None and self.num_updates % self.measure_every < self.interval

    def _rho_factor(self) -> float:
        """What the schedule makes of every rho in the next update."""
        factor = 1.0
        if self.rho_schedule == "warmup":
            factor = min(1.0, (self.num_updates + 1) / self.rho_warmup_steps)
        elif self.rho_schedule == "lr":
            group = self.param_groups[0]
            factor = float(group["lr"]) / float(group.get("initial_lr", group["lr"]))
        return self.rho_floor + (1 - self.rho_floor) * factor

    def _rho_of(self, group: dict[str, Any]) -> float:
        """A group's rho before the schedule; 0 where it is not perturbed."""
        return group.get("rho", self.rho) if group.get("perturb", True) else 0.0

    def _largest_rho(self) -> float:
        return max(self._rho_of(group) * self._rho_factor() for group in self.param_groups)

    def _signed_rhos(self, rho: float) -> dict[Tensor, float]:
        """For each perturbed parameter the length of its group, negative where the base climbs the loss."""
        factor = self._rho_factor()
        perturbed = set(self.perturbed_params())
        rhos: dict[Tensor, float] = {}
        for group in self.param_groups:
            length = group["rho"] * factor if "rho" in group else rho
            sign = -1 if group.get("maximize") else 1
            rhos |= {p: sign * length for p in group["params"] if p in perturbed}
        return rhos

    def _first_gradients(self) -> dict[Tensor, Tensor]:
        pairs = ((p, p.grad) for p in self.perturbed_params())
        # the adaptive ascent overwrites them
        return {p: g.clone() if self.adaptive else g for p, g in pairs if g is not None}

    def _after_second_pass(self, first: dict[Tensor, Tensor]) -> None:
        """Change the gradients of w + e, in place, knowing those of w."""

    def _between_ascents(self) -> None:
        """Change the gradients of an update without a perturbation, in place."""

    def _own_state(self) -> dict[str, Any]:
        return {"num_updates": self.num_updates}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        self.num_updates = state["num_updates"]

    def _move(self, params: list[Tensor], directions: list[Tensor], rhos: list[float]) -> Tensor:
        """Save the parameters and move them along the directions, which are overwritten."""
        for p in params:
            if p not in self._saved:
                self._saved[p] = torch.empty_like(p)
        saved = [self._saved[p] for p in params]
        if self.adaptive:  # w g is as long as |w| g
            torch._foreach_mul_(directions, params)
        norms = torch.stack(norms_of(directions))
        norm = torch.linalg.vector_norm(norms)
        self._lengths = norms if self.per_layer else norm.expand_as(norms)
        self._norm, self._rhos = norm, rhos

        is_finite = norm.isfinite()
        asked = is_on_host(norm)
        if asked and not is_finite:
            return norm  # the second pass runs at w, its update will be skipped
        if self.adaptive:
            torch._foreach_mul_(directions, params)
        self._ascended = params
        # an autocast around both passes would go on with low-precision copies of the weights before
        torch.clear_autocast_cache()

        scales = _quotients(rhos, self._lengths.clamp(min=1e-12))
        if asked:  # tensor by tensor, while it is in the cache
            for p, copy, direction, scale in zip(params, saved, directions, scales.tolist(), strict=True):
                copy.copy_(p)
                p.add_(direction, alpha=scale)
            return norm

        torch._foreach_copy_(saved, params)
        # the same choice without asking the device; 0 * inf would be NaN
        steps = [torch.where(is_finite, direction, 0) for direction in directions]
        torch._foreach_mul_(steps, list(scales.to(steps[0].dtype)))
        torch._foreach_add_(params, steps)
        return norm

    @torch.no_grad()
    def _measure(self) -> None:
        """Length of e, and the cosine of both gradients from e, which is along the first one."""
        lengths, products, seconds = [], [], []
        for p, length, rho in zip(self._ascended, self._lengths, self._rhos, strict=True):
            e = precise(p) - precise(self._saved[p])
            lengths.append(e.norm())
            if p.grad is not None and rho != 0:
                second = precise(p.grad)
                # <T g, T g'> = <T^2 g, g'>, and e = rho T^2 g / length
                products.append(inner_product(e, second) * length / rho)
                seconds.append((second * precise(self._saved[p]) if self.adaptive else second).norm())
        self.metrics["perturbation_norm"] = length_of(lengths)
        if products:
            both_norms = self._norm * length_of(seconds)
            self.metrics["gradient_cosine"] = torch.stack(products).sum() / both_norms.clamp(min=1e-30)

    @contextmanager
    def _gradients_of_perturbed_only(self) -> Iterator[None]:
        """Switch off the gradients that a first pass has no use for."""
        wanted = set(self.perturbed_params())
        idle = [p for p in self._all_params() if p.requires_grad and p not in wanted]
        if self._only is None:  # the few of other groups are not worth a second graph
            idle = []
        for p in idle:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in idle:
                p.requires_grad_(True)

    def _share_base(self) -> None:
        """Groups, state and defaults are the base optimizer's: schedules and scalers see one optimizer."""
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state
        self.defaults = self.base_optimizer.defaults
        forget_skipped_state(self.base_optimizer)

    def _all_params(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]

    @torch.no_grad()
    def _mark_overflow(self, norm: Tensor) -> None:
        """Carry a first pass that was not finite into the second's gradient, without a host sync."""
        for p in self._all_params():
            if p.grad is not None:
                p.grad.add_(torch.where(norm.isfinite(), 0.0, torch.nan).to(p.grad.dtype))
                return


def check_group(group: dict[str, Any]) -> None:
    """Raise a SettingError where a number of a parameter group is not finite, or its rho no length."""
    for setting, value in group.items():
        numbers = value if isinstance(value, tuple | list) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise SettingError(setting, value, "must be finite")
    if "rho" in group:
        _check_rho(group["rho"])


def copied_state(optimizer: Optimizer, *, without: Sequence[str] = ()) -> dict[str, Any]:
    """The attributes that copies and pickles keep: not the hooks, nor what a scheduler puts over `step`."""
    return {
        name: value
        for name, value in vars(optimizer).items()
        if name not in ("step", *without) and not name.startswith("_optimizer_")
    }


def _check_rho(rho: float) -> None:
    if not 0 <= rho < math.inf:
        raise SettingError("rho", rho, "must be at least 0 and finite (0 turns the perturbation off)")


def _require_plain_step(base: Optimizer) -> None:
    """Refuse a base optimizer that evaluates the loss itself."""
    closure = inspect.signature(type(base).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise SettingError(
            "base",
            type(base).__name__,
            "evaluates the loss itself, which is SAM's part; take AdamW or SGD",
        )


def _quotients(rhos: list[float], lengths: Tensor) -> Tensor:
    """Each rho over its length, (n,), without asking the device."""
    if len(set(rhos)) == 1:
        return rhos[0] / lengths
    return torch.stack([rho / length for rho, length in zip(rhos, lengths, strict=True)])


def _norm_params(model: nn.Module) -> set[Tensor]:
    """Gains and biases of the norm layers."""
    return {p for module in model.modules() if isinstance(module, NORM_LAYERS) for p in module.parameters()}


def is_on_host(tensor: Tensor) -> bool:
    """Whether the host can read a value without waiting for the device."""
    return tensor.device.type == "cpu"


def precise(x: Tensor) -> Tensor:
    """At least float32: the squares of float16 gradients overflow."""
    return x.float() if x.dtype in LOW_PRECISION else x


def norms_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Euclidean norm of each tensor, at least in float32."""
    is_low = any(tensor.dtype in LOW_PRECISION for tensor in tensors)
    return list(torch._foreach_norm([precise(t) for t in tensors] if is_low else list(tensors)))


def inner_product(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the products of two tensors' elements, (), without a copy where their memory is alike."""
    a, b = precise(a), precise(b)
    if a.stride() == b.stride():
        by_stride = sorted(range(a.ndim), key=a.stride, reverse=True)
        a, b = a.permute(by_stride), b.permute(by_stride)
    return a.flatten() @ b.flatten()


def length_of(parts: Sequence[Tensor]) -> Tensor:
    """Length of a vector whose parts have these lengths."""
    return torch.linalg.vector_norm(torch.stack(list(parts)))
