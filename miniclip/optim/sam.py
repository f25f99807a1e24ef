"""Sharpness-Aware Minimization (Foret et al. 2021, arXiv 2010.01412), safe under mixed precision.

One update minimises the loss at the worst point near the weights, found to first order:

    e = rho * g / ||g||          first pass: gradient g at w, perturbation e (eq. 2)
    w <- base(w, grad L(w + e))  second pass: gradient at w + e, applied at w

What differs from the public implementations: the weights come back bit for bit, because they are
copied and not subtracted; storage is never swapped; a gradient that is not finite in either pass leaves
a gradient that is not finite, so that a GradScaler or `miniclip.training.Precision` skips the update;
batch-norm statistics and dropout masks of the second pass are those of the first.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from miniclip.errors import SettingError

Closure = Callable[[], Tensor]
"""Runs forward and backward over the batch, adds to `.grad` and returns the loss. It zeroes nothing."""


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
            al. 2021, arXiv 2102.11600, eq. 4 with T_w = |w|).
        model: its batch-norm statistics (and those of any module with `track_running_stats`) are held
            still in the second pass.

    Raises:
        SettingError: when rho is negative.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        base: Callable[..., Optimizer],
        *,
        rho: float = 0.05,
        per_layer: bool = False,
        adaptive: bool = False,
        model: nn.Module | None = None,
    ):
        if not rho >= 0:
            raise SettingError("rho", rho, "must be at least 0 (0 turns the perturbation off)")
        super().__init__(params, {})
        self.base_optimizer = base(self.param_groups)
        self.rho = rho
        self.per_layer = per_layer
        self.adaptive = adaptive
        self.model = model
        self._saved: dict[Tensor, Tensor] = {}
        self._ascended: list[Tensor] = []
        self._share_base()

    def step(self, closure: Closure | None = None) -> Tensor | None:  # type: ignore[override]
        """One update. With a closure both passes run first; without, `backward` has been called."""
        loss = None if closure is None else self.backward(closure)
        self.base_optimizer.step()
        return loss

    def backward(self, closure: Closure) -> Tensor:
        """Run the passes: `.grad` ends as the gradient at w + e, the weights end as they were.

        Returns:
            the loss of the first pass, at w.
        """
        self.zero_grad()
        randomness = _Randomness(self._device)
        with torch.enable_grad():
            loss = closure()
        if self.rho == 0:
            return loss
        norm = self.ascend()
        try:
            self.zero_grad()
            with torch.enable_grad(), frozen_statistics(self.model), randomness.replayed():
                closure()
        finally:
            self.descend()
        self._mark_overflow(norm)
        return loss

    @torch.no_grad()
    def ascend(self) -> Tensor:
        """Save the weights and move them to w + e. Returns the gradient's norm, finite or not, ()."""
        params = [p for p in self._perturbed_params() if p.grad is not None]
        for p in params:
            if p not in self._saved:
                self._saved[p] = torch.empty_like(p)
        torch._foreach_copy_([self._saved[p] for p in params], params)
        self._ascended = params
        gradients: list[Tensor] = [p.grad for p in params]  # type: ignore[misc]
        if self.adaptive:
            torch._foreach_mul_(gradients, torch._foreach_abs(params))
        norms = torch.stack(torch._foreach_norm(gradients))
        norm = torch.linalg.vector_norm(norms)
        lengths = norms if self.per_layer else norm.expand_as(norms)
        # after an overflow the second pass is worthless; _mark_overflow makes sure its update is skipped
        scales = torch.where(norm.isfinite(), self.rho / lengths.clamp(min=1e-12), 0)
        for p, gradient, scale in zip(params, gradients, scales, strict=True):
            if self.adaptive:
                gradient = gradient * p.abs()
            p.addcmul_(gradient, scale.to(p.dtype))
        return norm

    @torch.no_grad()
    def descend(self) -> None:
        """Copy the saved weights back, exactly, whether or not they had a second gradient."""
        torch._foreach_copy_(self._ascended, [self._saved[p] for p in self._ascended])

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state: SAM keeps nothing from one step to the next."""
        return self.base_optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base_optimizer.load_state_dict(state_dict)
        self._share_base()

    def _share_base(self) -> None:
        """Groups and state are the base optimizer's, so that schedules and scalers see one optimizer."""
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state

    def _perturbed_params(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            if group.get("perturb", True):
                yield from group["params"]

    @property
    def _device(self) -> torch.device:
        return self.param_groups[0]["params"][0].device

    @torch.no_grad()
    def _mark_overflow(self, norm: Tensor) -> None:
        """Carry a first pass that was not finite into the second's gradient, without a host sync."""
        for group in self.param_groups:
            for p in group["params"]:
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
