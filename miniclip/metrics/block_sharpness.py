"""Sharpness block by block: where in a model the loss rises, and where its top curvature lies."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from miniclip.metrics.sharpness import LossSurface
from miniclip.metrics.vectors import absolute_cosine, dot, scaled
from miniclip.models.blocks import blocks_of

Blocks = Mapping[str, Sequence[int]]
"""Of each block, by its name, the indices of its tensors among `LossSurface.params`."""


class BlockSharpness(NamedTuple):
    """Sharpness of one block.

    Attributes:
        num_weights: that SAM would perturb.
        rise: mean over batches of L(w + e) - L(w), e of length rho in this block alone, along that block's
            part of the batch's gradient.
        fraction: of the sum of all blocks' rises.
        gradient_cosine: |cos| between the block's parts of the gradient and of the top eigenvector.
        eigenvector_fraction: squared length of the block's part of the top eigenvector, whose length is 1:
            those of all blocks add up to 1.
    """

    num_weights: int
    rise: float
    fraction: float
    gradient_cosine: float
    eigenvector_fraction: float


def block_indices(surface: LossSurface) -> dict[str, list[int]]:
    """The blocks of the surface's model of which anything is trained."""
    index_of = {param: index for index, param in enumerate(surface.params)}
    blocks = {
        name: [index_of[param] for param in params if param in index_of]
        for name, params in blocks_of(surface.model).items()
    }
    return {name: found for name, found in blocks.items() if found}


def block_rises(surface: LossSurface, blocks: Blocks, rho: float) -> dict[str, float]:
    """How much the loss rises when one block alone is perturbed, mean over batches.

    For each batch it takes a gradient, and a forward pass for each block and one more.
    """
    totals = dict.fromkeys(blocks, 0.0)
    for batch in surface.batches:
        gradient = surface.gradient(batch)
        start = surface.loss_at_rest(batch)

        for name, block in blocks.items():
            step = scaled(_part(gradient, block), rho)
            params = _part(surface.params, block)
            totals[name] += surface.moved_batch_loss(batch, step, params) - start

    return {name: total / len(surface.batches) for name, total in totals.items()}


def block_sharpness(
    surface: LossSurface,
    blocks: Blocks,
    *,
    rho: float,
    gradient: Sequence[Tensor],
    eigenvector: Sequence[Tensor],
) -> dict[str, BlockSharpness]:
    """Sharpness of each block.

    Args:
        blocks: see `block_indices`.
        rho: length of the perturbation of each block.
        gradient: of the mean loss.
        eigenvector: the Hessian's top one, of length 1.
    """
    rises = block_rises(surface, blocks, rho)
    total = sum(rises.values())

    measured = {}
    for name, block in blocks.items():
        eigenvector_part = _part(eigenvector, block)
        measured[name] = BlockSharpness(
            num_weights=sum(param.numel() for param in _part(surface.params, block)),
            rise=rises[name],
            fraction=rises[name] / total if total else 0.0,
            gradient_cosine=absolute_cosine(_part(gradient, block), eigenvector_part),
            eigenvector_fraction=dot(eigenvector_part, eigenvector_part).item(),
        )
    return measured


def _part(vector: Sequence[Tensor], block: Sequence[int]) -> list[Tensor]:
    """A block's part of a vector."""
    return [vector[index] for index in block]
