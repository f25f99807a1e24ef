"""Buffers that a forward pass changes: running statistics, counters, moving averages."""

import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from miniclip.optim import foreach


@contextmanager
def frozen_statistics(model: nn.Module | None) -> Iterator[None]:
    """Hold all buffers of a model still: its modules work on copies, which are thrown away.

    So every module computes what it always computes, in training and in evaluation, and records nothing,
    whatever its class does with its buffers: batch norm moves mean, variance and counter; instance norm
    reads its statistics as well as moves them; a module of a user's own may replace the tensor.
    """
    with BufferCopies(model).in_use():
        yield


class BufferCopies:
    """Copies of a model's buffers as they are when this is made, to run a forward pass again from there.

    Args:
        model: None has no buffers.
    """

    def __init__(self, model: nn.Module | None):
        modules = [] if model is None else list(model.modules())
        owned = [(module, name, buffer) for module in modules for name, buffer in _own_buffers(module)]

        # a buffer that two modules share stays shared
        copies: dict[Tensor, Tensor] = {buffer: buffer.clone() for _, _, buffer in owned}
        self._copies = [(module, name, copies[buffer]) for module, name, buffer in owned]

    def fetch(self) -> None:
        """Make them copies of the buffers as these are now."""
        for copies, buffers in self._by_dtype():
            foreach.copy_(copies, buffers)

    @torch.no_grad()
    def absorb(self) -> None:
        """Take in what a module put in a copy's place while they were in use, in place of writing to it."""
        for module, name, copy in self._copies:
            found = module._buffers[name]
            if found is not None and found is not copy:
                copy.copy_(found)

    def hand_back(self) -> None:
        """Make the buffers what the copies are now."""
        for copies, buffers in self._by_dtype():
            foreach.copy_(buffers, copies)

    def _by_dtype(self) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Copies and the model's buffers, of one type of number at a time, as the kernels for many want."""
        pairs: dict[torch.dtype, dict[Tensor, Tensor]] = defaultdict(dict)
        for module, name, copy in self._copies:
            pairs[copy.dtype][copy] = module._buffers[name]  # type: ignore[assignment]
        for same in pairs.values():
            yield list(same), list(same.values())

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Context in which the modules work on the copies, and move these; the buffers hold still."""
        originals = [module._buffers[name] for module, name, _ in self._copies]
        for module, name, copy in self._copies:
            module._buffers[name] = copy

        try:
            yield
        finally:
            for (module, name, _), original in zip(self._copies, originals, strict=True):
                module._buffers[name] = original


@contextmanager
def warning_of_moving_statistics() -> Iterator[None]:
    """Warn when a module that is called changes its own buffers. Comparing them waits for the device."""
    before: dict[nn.Module, list[Tensor]] = {}
    moving: set[str] = set()

    def copy_buffers(module: nn.Module, inputs: Any) -> None:
        before[module] = [buffer.clone() for _, buffer in _own_buffers(module) if not buffer.is_meta]

    def compare(module: nn.Module, inputs: Any, output: Any) -> None:
        after = [buffer for _, buffer in _own_buffers(module)]
        if any(not torch.equal(old, new) for old, new in zip(before.pop(module, []), after, strict=False)):
            moving.add(type(module).__name__)

    hooks = [register_module_forward_pre_hook(copy_buffers), register_module_forward_hook(compare)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

    if moving:
        warnings.warn(
            "SAM was not given the model, so its second pass moves the statistics of "
            f"{', '.join(sorted(moving))} as well, at the perturbed weights. Give SAM(..., model=model).",
            stacklevel=2,
        )


def _own_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Buffers of a module itself, but none that autograd works on or that is still empty.

    Read from `_buffers`, as they are written above: `setattr` of a user's own module may do something else.
    Tried with torch 2.14.
    """
    return [
        (name, buffer)
        for name, buffer in module._buffers.items()
        if buffer is not None and not is_lazy(buffer) and not buffer.requires_grad
    ]
