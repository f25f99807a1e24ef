"""Mixed precision: the one owner of autocast and of the gradient scaler."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from miniclip.models.kept_weights import weights_kept
from miniclip.optim import PassOptimizer, forget_skipped_state

log = logging.getLogger(__name__)

DTypeName = Literal["auto", "float16", "bfloat16", "float32"]


class Precision:
    """Forward pass in a low precision, weights and step in float32.

    Gradients are unscaled exactly once per step. A step whose gradient is not finite is skipped:
    weights and moments stay as they are, in every precision.

    Args:
        dtype: of the forward pass. "auto" is float16 on CUDA, elsewhere bfloat16, but float32 on a CPU
            without arithmetic in bfloat16; float16 brings a GradScaler, "float32" no autocast.
        device: where the model lies.
    """

    def __init__(self, *, dtype: DTypeName, device: torch.device):
        if dtype == "auto":
            dtype = _best_dtype(device)
        elif dtype == "bfloat16" and device.type == "cpu" and not _cpu_has_bfloat16():
            log.warning("This CPU has no bfloat16 arithmetic; precision=fp32 will be faster.")
        self.device = device
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.scaler = torch.amp.GradScaler(device.type) if self.dtype is torch.float16 else None

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Context of forward passes with the same weights, each of which is cast once."""
        if self.dtype is torch.float32:
            yield
            return
        with torch.autocast(self.device.type, dtype=self.dtype), weights_kept():
            yield

    def without_autocast(self) -> contextlib.AbstractContextManager:
        """Context of a backward pass inside that of forward passes, whose cast weights stay."""
        return torch.autocast(self.device.type, enabled=False)

    @property
    def loss_scale(self) -> float | Tensor:
        """The factor on losses and gradients until the step, () on the device if there is a scaler."""
        if self.scaler is None:
            return 1.0
        return self.scaler.scale(torch.ones((), device=self.device))

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to `.grad`, scaled if there is a scaler."""
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        loss.backward()

    def step(self, optimizer: PassOptimizer, *, max_norm: float | None) -> Tensor:
        """Unscale, clip, update the weights unless a gradient is not finite, update the scale.

        Args:
            optimizer: holds gradients as `backward` left them.
            max_norm: gradients longer than this all together are shortened to it; None leaves them.

        Returns:
            the gradient's norm before clipping, ().
        """
        base = optimizer.base_optimizer
        forget_skipped_state(base)
        if self.scaler is not None:
            self.scaler.unscale_(base)

        params = [p for group in base.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in params])
        if self.scaler is None and getattr(base, "_step_supports_amp_scaling", False):
            _fused_step(base, norm, max_norm)
            return norm

        if max_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(params, max_norm, norm)
        if self.scaler is not None:
            self.scaler.step(base)
            self.scaler.update()
        elif norm.isfinite():  # the host waits for the device here
            base.step()
        return norm

    def state_dict(self) -> dict:
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: dict) -> None:
        if self.scaler is not None and state:
            self.scaler.load_state_dict(state)


def _fused_step(optimizer: Optimizer, norm: Tensor, max_norm: float | None) -> None:
    """Clip, test for finiteness and step in the optimizer's own kernel, as it does for a GradScaler."""
    too_long = None if max_norm is None else (norm / max_norm).clamp(min=1).to(torch.float32)
    optimizer.grad_scale = too_long  # type: ignore[attr-defined]
    optimizer.found_inf = (~norm.isfinite()).to(torch.float32)  # type: ignore[attr-defined]
    optimizer.step()
    del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]


def _best_dtype(device: torch.device) -> DTypeName:
    if device.type == "cuda":
        return "float16"
    return "float32" if device.type == "cpu" and not _cpu_has_bfloat16() else "bfloat16"


def _cpu_has_bfloat16() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
