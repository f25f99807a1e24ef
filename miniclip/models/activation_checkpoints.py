"""Activation checkpointing (Chen et al. 2016, arXiv 1604.06174): blocks that run twice, and keep less."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from miniclip.errors import SettingError
from miniclip.models.blocks import modules_of_blocks
from miniclip.optim.statistics import BufferCopies


def checkpoint_blocks(backbone: nn.Module) -> None:
    """Let a network's blocks forget what is inside them, and compute it again for the backward pass.

    Only what goes into a block is kept, in training and where there is a graph. The result is the same to
    the bit: the second forward pass has the masks of the first, and reads the statistics that the first
    read, on copies, so that they move once.

    Raises:
        SettingError: when the network has no blocks.
    """
    blocks = modules_of_blocks(backbone)
    if not blocks:
        allowed = "finds no blocks in this architecture; set it to false"
        raise SettingError("checkpoint_activations", True, allowed)

    for block in blocks:
        # on the object, as a module around it would rename its weights
        block.forward = partial(_forward, block)


def _forward(block: nn.Module, *inputs: Any, **named: Any) -> Any:
    """A block's own forward pass, whose inside is kept where no backward pass of training comes."""
    run: Callable[..., Any] = partial(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return run(*inputs, **named)
    contexts = partial(_contexts, BufferCopies(block))
    return checkpoint(run, *inputs, use_reentrant=False, context_fn=contexts, **named)


def _contexts(buffers: BufferCopies) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Of the first forward pass and of the second."""
    return nullcontext(), buffers.in_use()
