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

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from miniclip.errors import SettingError

Closure = Callable[[], Tensor]
"""Runs forward and backward over the batch, or over all its micro-batches, adds to `.grad` and returns the
loss. It zeroes nothing."""

Params = Iterable[Tensor] | Iterable[dict[str, Any]]
Base = Callable[..., Optimizer]

RhoSchedule = Literal["constant", "warmup", "lr"]

NORM_LAYERS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class SAM(Optimizer):
    """One-step SAM around any base optimizer.

    Alone:

        optimizer = SAM(model.parameters(), torch.optim.AdamW, rho=0.05, model=model)
        loss = optimizer.step(closure)

    With a GradScaler, `backward` leaves scaled gradients for the usual sequence:

        loss = optimizer.backward(closure)      # the closure calls scaler.scale(loss).backward()
        scaler.unscale_(optimizer.base_optimizer)
        scaler.step(optimizer.base_optimizer)
        scaler.update()

    Neither needs to unscale between the passes: g / ||g|| does not depend on the scale.

    Args:
        params: parameters or parameter groups. A group with `perturb: False` is trained, not perturbed.
        base: makes the base optimizer from parameter groups.
        rho: length of the perturbation; 0 turns the second pass off, which is the base optimizer.
        per_layer: give each parameter tensor a perturbation of length rho, instead of all together.
        adaptive: measure the length relative to the weights, e = rho * w^2 g / ||w g|| (ASAM, Kwon et
            al. 2021, arXiv 2102.11600, eq. 4 with T_w = |w|, so that a rescaled layer changes nothing).
        norms_only: perturb the gains and biases of norm layers only (SAM-ON, Mueller et al. 2023, arXiv
            2306.04226). The first pass computes no gradient of any other weight, which makes a step cost
            5/3 instead of 2 plain ones; that part is ours. Needs `model`.
        every: perturb in the first of so many updates; in those between, the base optimizer runs alone.
        rho_schedule: "constant"; "warmup", linear over `rho_warmup_steps` updates; or "lr", in
            proportion to the learning rate of the first group.
        rho_warmup_steps: updates until rho is reached under "warmup".
        rho_floor: what the schedule starts from, or falls to, as a share of rho.
        measure_every: updates between those that measure `measures` in full; null never does.
        model: its batch-norm statistics (and those of any module with `track_running_stats`) are held
            still in the second pass.

    Attributes:
        last_rho: length of the last update's perturbation; 0 where there was none.
        measures: of the last update, tensors () on the device. After a second pass `sharpness`,
            L(w + e) - L(w); every `measure_every` updates also `perturbation_norm` and
            `gradient_cosine`, between the gradients of the two passes (with `adaptive`, both relative
            to the weights).

    Raises:
        SettingError: when rho is negative or another number out of its range.
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
        every: int = 1,
        rho_schedule: RhoSchedule = "constant",
        rho_warmup_steps: int = 100,
        rho_floor: float = 0.0,
        measure_every: int | None = 10,
        model: nn.Module | None = None,
    ):
        if not rho >= 0:
            raise SettingError("rho", rho, "must be at least 0 (0 turns the perturbation off)")
        if not 0 <= rho_floor <= 1:
            raise SettingError("rho_floor", rho_floor, "is a share of rho and must lie between 0 and 1")
        for setting, value in (
            ("every", every),
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
        self.base_optimizer = base(self.param_groups)
        self.rho = rho
        self.per_layer = per_layer
        self.adaptive = adaptive
        self.every = every
        self.rho_schedule = rho_schedule
        self.rho_warmup_steps = rho_warmup_steps
        self.rho_floor = rho_floor
        self.measure_every = measure_every
        self.model = model
        self.num_updates = 0
        self.last_rho = 0.0
        self.measures: dict[str, Tensor] = {}
        self._only = _norm_params(model) if norms_only and model is not None else None
        self._saved: dict[Tensor, Tensor] = {}
        self._ascended: list[Tensor] = []
        self._share_base()

    def step(self, closure: Closure | None = None) -> Tensor | None:  # type: ignore[override]
        """One update. With a closure both passes run first; without, `backward` has been called."""
        loss = None if closure is None else self.backward(closure)
        self.base_optimizer.step()
        return loss

    def backward(self, closure: Closure) -> Tensor:
        """Run the passes: `.grad` ends as the gradient to apply, the weights end as they were.

        Returns:
            the loss of the first pass, at w.
        """
        self.zero_grad()
        rho = self.current_rho()
        self.measures = {}
        ascends = self.num_updates % self.every == 0
        self.last_rho = rho if ascends else 0.0
        measured = self.measure_every is not None and self.num_updates % self.measure_every == 0
        self.num_updates += 1
        if rho == 0 or not ascends:
            with torch.enable_grad():
                loss = closure()
            if rho > 0:
                self._between_ascents()
            return loss
        return self._both_passes(closure, rho, measured=measured)

    def current_rho(self) -> float:
        """Length of the next update's perturbation."""
        factor = 1.0
        if self.rho_schedule == "warmup":
            factor = min(1.0, (self.num_updates + 1) / self.rho_warmup_steps)
        elif self.rho_schedule == "lr":
            group = self.param_groups[0]
            factor = float(group["lr"]) / float(group.get("initial_lr", group["lr"]))
        return self.rho * (self.rho_floor + (1 - self.rho_floor) * factor)

    @torch.no_grad()
    def ascend(self, rho: float | None = None) -> Tensor:
        """Save the weights and move them to w + e. Returns the gradient's norm, finite or not, ()."""
        params = [p for p in self.perturbed_params() if p.grad is not None]
        gradients: list[Tensor] = [p.grad for p in params]  # type: ignore[misc]
        return self._move(params, gradients, self.current_rho() if rho is None else rho)

    @torch.no_grad()
    def descend(self) -> None:
        """Copy the saved weights back, exactly, whether or not they had a second gradient."""
        if self._ascended:
            torch._foreach_copy_(self._ascended, [self._saved[p] for p in self._ascended])
        self._ascended = []

    def num_passes(self, updates: int) -> int:
        """Forward passes that so many updates take, counted from the first one."""
        return updates + (math.ceil(updates / self.every) if self.rho > 0 else 0)

    def perturbed_params(self) -> Iterator[Tensor]:
        """The parameters that take part in the perturbation."""
        for group in self.param_groups:
            if group.get("perturb", True):
                yield from (p for p in group["params"] if self._only is None or p in self._only)

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

    def _both_passes(self, closure: Closure, rho: float, *, measured: bool) -> Tensor:
        randomness = _Randomness(self._device)
        with torch.enable_grad(), self._gradients_of_perturbed_only():
            loss = closure()
        first = self._first_gradients() if self.keeps_first_gradient else {}
        norm = self.ascend(rho)
        try:
            self.zero_grad()
            with torch.enable_grad(), frozen_statistics(self.model), randomness.replayed():
                perturbed_loss = closure()
            self.measures["sharpness"] = perturbed_loss.detach() - loss.detach()
            if measured and self._ascended:
                self._measure()
        finally:
            self.descend()
        if first:
            self._after_second_pass(first)
        self._mark_overflow(norm)
        return loss

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

    def _move(self, params: list[Tensor], directions: list[Tensor], rho: float) -> Tensor:
        """Save the parameters and move them along the directions, which are overwritten."""
        for p in params:
            if p not in self._saved:
                self._saved[p] = torch.empty_like(p)
        saved = [self._saved[p] for p in params]
        if self.adaptive:  # w g is as long as |w| g
            torch._foreach_mul_(directions, params)
        norms = torch.stack(torch._foreach_norm(directions))
        norm = torch.linalg.vector_norm(norms)
        self._lengths = norms if self.per_layer else norm.expand_as(norms)
        self._norm, self._rho = norm, rho
        is_finite = norm.isfinite()
        asked = is_near(norm)
        if asked and not is_finite:
            return norm  # the second pass runs at w, its update will be skipped
        if self.adaptive:
            torch._foreach_mul_(directions, params)
        self._ascended = params
        scales = rho / self._lengths.clamp(min=1e-12)
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
        for p, length in zip(self._ascended, self._lengths, strict=True):
            e = p - self._saved[p]
            lengths.append(e.norm())
            if p.grad is not None:
                # <T g, T g'> = <T^2 g, g'>, and e = rho T^2 g / length
                products.append(inner_product(e, p.grad) * length / self._rho)
                seconds.append((p.grad * self._saved[p] if self.adaptive else p.grad).norm())
        self.measures["perturbation_norm"] = length_of(lengths)
        both_norms = self._norm * length_of(seconds)
        self.measures["gradient_cosine"] = torch.stack(products).sum() / both_norms.clamp(min=1e-30)

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
        """Groups and state are the base optimizer's, so that schedules and scalers see one optimizer."""
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state

    def _all_params(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]

    @property
    def _device(self) -> torch.device:
        return next(self._all_params()).device

    @torch.no_grad()
    def _mark_overflow(self, norm: Tensor) -> None:
        """Carry a first pass that was not finite into the second's gradient, without a host sync."""
        for p in self._all_params():
            if p.grad is not None:
                p.grad.add_(torch.where(norm.isfinite(), 0.0, torch.nan).to(p.grad.dtype))
                return


@contextmanager
def frozen_statistics(model: nn.Module | None) -> Iterator[None]:
    """Hold running statistics still: modules in training normalise by the batch and record nothing.

    Works on every module with `track_running_stats`, so it stops batch norm's `num_batches_tracked` as
    well as its mean and variance; momentum = 0 would not.
    """
    modules = [] if model is None else list(model.modules())
    tracking: list[Any] = [module for module in modules if getattr(module, "track_running_stats", False)]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True


def _norm_params(model: nn.Module) -> set[Tensor]:
    """Gains and biases of the norm layers."""
    return {p for module in model.modules() if isinstance(module, NORM_LAYERS) for p in module.parameters()}


def is_near(tensor: Tensor) -> bool:
    """Whether the host can read a value without waiting for the device."""
    return tensor.device.type == "cpu"


def inner_product(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the products of two tensors' elements, (), without a copy where their memory is alike."""
    if a.stride() == b.stride():
        by_stride = sorted(range(a.ndim), key=a.stride, reverse=True)
        a, b = a.permute(by_stride), b.permute(by_stride)
    return a.flatten() @ b.flatten()


def length_of(parts: Sequence[Tensor]) -> Tensor:
    """Length of a vector whose parts have these lengths."""
    return torch.linalg.vector_norm(torch.stack(list(parts)))


class _Randomness:
    """The state of the random generators now, to run a second pass with the first one's dropout."""

    def __init__(self, device: torch.device):
        self.device = device
        self.cpu_state = torch.get_rng_state()
        self.cuda_state = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Afterwards the generators stand where the first pass left them, if both drew the same."""
        torch.set_rng_state(self.cpu_state)
        if self.cuda_state is not None:
            torch.cuda.set_rng_state(self.cuda_state, self.device)
        yield
