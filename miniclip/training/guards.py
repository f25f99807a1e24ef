"""Guards against values that are not finite: what a bad batch wrote is taken back."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from miniclip.errors import UserError
from miniclip.optim.sam import is_on_host


class Diverged(UserError):
    """Training does not go on: gradients stay, or the weights are, not finite."""


class BufferGuard:
    """Takes a model's buffers back where an update is skipped.

    The forward pass writes running statistics, those of batch norm and of the dynamic temperature, before
    anyone knows whether its gradient is finite. One image of NaN pixels would stay in them for good.

    Args:
        model: on its device; its buffers are written in place from now on.
    """

    def __init__(self, model: nn.Module):
        by_dtype: dict[torch.dtype, list[Tensor]] = defaultdict(list)
        for buffer in model.buffers():
            by_dtype[buffer.dtype].append(buffer)

        self._groups = [(own, [torch.empty_like(b) for b in own]) for own in by_dtype.values()]

    @torch.no_grad()
    def save(self) -> None:
        """Keep a copy of all buffers, in memory that is allocated once."""
        for buffers, saved in self._groups:
            torch._foreach_copy_(saved, buffers)

    def are_finite(self) -> Tensor:
        """Whether all buffers are finite, () bool on the device."""
        values = [buffer for buffers, _ in self._groups for buffer in buffers]
        return all_finite(values)

    @torch.no_grad()
    def restore_unless(self, keep: Tensor) -> None:
        """Copy the saved buffers back where `keep`, () bool, is false."""
        if is_on_host(keep):
            if not keep:
                for buffers, saved in self._groups:
                    torch._foreach_copy_(buffers, saved)
            return

        # the same choice without waiting for the device; a product would carry NaN over
        for buffers, saved in self._groups:
            chosen = [torch.where(keep, buffer, copy) for buffer, copy in zip(buffers, saved, strict=True)]
            torch._foreach_copy_(buffers, chosen)


@torch.no_grad()
def spoil_unless(finite: Tensor, gradients: Iterable[Tensor | None]) -> None:
    """Add NaN to one gradient where `finite`, () bool, is false: every precision skips such an update."""
    for gradient in gradients:
        if gradient is not None:
            gradient.add_(torch.where(finite, 0.0, torch.nan).to(gradient.dtype))
            return


@torch.no_grad()
def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Whether all elements of all floating-point tensors are finite, () bool on their device."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    if not floating:
        return torch.tensor(True)

    # the largest magnitude of each tensor; NaN and infinity survive in it
    largest = torch._foreach_norm(floating, ord=float("inf"))
    return torch.stack([value.isfinite() for value in largest]).all()
