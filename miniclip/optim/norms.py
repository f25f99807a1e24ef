"""Lengths and products of many tensors at once, which do not overflow in low precision; and whether all are
finite."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from miniclip.optim import foreach

LOW_PRECISION = (torch.float16, torch.bfloat16)


def precise(x: Tensor) -> Tensor:
    """At least float32: the squares of float16 gradients overflow."""
    return x.float() if x.dtype in LOW_PRECISION else x


def norms_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Euclidean norm () of each tensor, at least in float32."""
    is_low = any(tensor.dtype in LOW_PRECISION for tensor in tensors)
    return list(foreach.norm([precise(tensor) for tensor in tensors] if is_low else list(tensors)))


def length_of(parts: Sequence[Tensor]) -> Tensor:
    """Length () of a vector whose parts have these lengths."""
    return torch.linalg.vector_norm(torch.stack(list(parts)))


def are_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Whether all elements of all tensors are finite, () bool, without asking the device."""
    return length_of(norms_of(tensors)).isfinite()


@torch.no_grad()
def spoil_unless(finite: Tensor, gradients: Iterable[Tensor | None]) -> None:
    """Add NaN to one gradient where `finite`, () bool, is false: every precision skips such a step.

    The device is not waited for.
    """
    for gradient in gradients:
        if gradient is not None and gradient.numel():
            gradient.add_(torch.where(finite, 0.0, torch.nan).to(gradient.dtype))
            return


def inner_product(a: Tensor, b: Tensor) -> Tensor:
    """Sum () of the products of two tensors' elements, without a copy where their memory is alike."""
    a, b = precise(a), precise(b)
    if a.stride() == b.stride():
        by_stride = sorted(range(a.ndim), key=a.stride, reverse=True)
        a, b = a.permute(by_stride), b.permute(by_stride)
    return a.flatten() @ b.flatten()


def quotients(numerators: list[float], lengths: Tensor) -> Tensor:
    """Each number over its length, (n,), without asking the device."""
    if len(set(numerators)) == 1:
        return numerators[0] / lengths
    return torch.stack([number / length for number, length in zip(numerators, lengths, strict=True)])


def is_on_host(tensor: Tensor) -> bool:
    """Whether the host can read a value without waiting for the device."""
    return tensor.device.type == "cpu"
