"""What a module of our own makes of its weights, kept as long as autocast keeps those that it casts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

Made = dict[tuple[int, str, bool], tuple[Tensor, Tensor]]
"""What was made of a weight, and the weight, by its id, what it was made into, and whether with a graph."""

_made: ContextVar[Made | None] = ContextVar("made", default=None)


@contextmanager
def weights_kept() -> Iterator[None]:
    """Let `kept` make each thing once until the end, during which weights must not change."""
    token = _made.set({})
    try:
        yield
    finally:
        _made.reset(token)


def kept(weight: Tensor, kind: str, make: Callable[[], Tensor]) -> Tensor:
    """What `make` makes of a weight; within `weights_kept` what it made before, if anything.

    Args:
        kind: of what is made, where several things are made of a weight.
    """
    made = None if torch.compiler.is_compiling() else _made.get()
    if made is None:
        return make()

    key = (id(weight), kind, torch.is_grad_enabled())
    if key not in made:
        made[key] = weight, make()  # the weight, so that no other one gets its id
    return made[key][1]
