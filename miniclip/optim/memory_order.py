"""The order of numbers in memory, which torch's fused optimizers take to be one for all that they read."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def keep_memory_order(optimizer: Optimizer) -> None:
    """Let each step find gradients and moments in the order in which their weights lie in memory.

    A fused kernel reads all of them number by number, whatever their strides: where weights are in
    channels_last memory and the moments were loaded from contiguous ones, each weight would be moved by
    another one's moments. Tried with torch 2.14.
    """
    if getattr(optimizer, "_keeps_memory_order", False):
        return

    def put_in_order(optimizer: Optimizer, *arguments: Any) -> None:
        fused = (group for group in optimizer.param_groups if group.get("fused"))
        for p in (p for group in fused for p in group["params"]):
            _put_in_order_of(p, optimizer.state.get(p, {}))

    optimizer.register_step_pre_hook(put_in_order)
    optimizer._keeps_memory_order = True  # type: ignore[attr-defined]


def _put_in_order_of(p: Tensor, state: dict[str, Any]) -> None:
    """Put the gradient of a parameter, and what of its state has its shape, in its order."""
    if p.grad is not None and not _is_in_order_of(p, p.grad):
        p.grad = _in_order_of(p, p.grad)
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == p.shape and not _is_in_order_of(p, value):
            state[name] = _in_order_of(p, value)


def _is_in_order_of(p: Tensor, value: Tensor) -> bool:
    """Whether a tensor of the shape of `p` lies in memory as it does; none that is sparse is asked."""
    if value.layout is not torch.strided or value.stride() == p.stride():
        return True
    return _strides(value) == _strides(p)


def _strides(tensor: Tensor) -> list[int]:
    """Strides along which there is more than one number."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def _in_order_of(p: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(p, dtype=value.dtype, requires_grad=False).copy_(value)
