"""Contrastive losses in tiles: exact in value and gradient, with memory linear in the batch.

The B x B logits are computed one tile at a time, a block of images against a block of captions, and never
stored: the forward pass keeps a few sums of each row, the backward pass computes each tile again.
"""

import abc
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from miniclip.positives import PositivePairs

ROWS_OF_PRODUCTS = 64
"""Rows whose products are in a CPU's memory at a time, where only their sum is wanted."""


class Inputs(NamedTuple):
    """What a loss is differentiated by: the logits are `scale * images @ texts.T + bias`.

    Attributes:
        images: (B, D), also of less precision than float32, in which all is computed.
        texts: (B, D).
        scale: () float32.
        bias: () float32; None is 0.
    """

    images: Tensor
    texts: Tensor
    scale: Tensor
    bias: Tensor | None


Plain = Callable[[Inputs], Tensor]
"""A loss with all logits in memory."""


class Block(NamedTuple):
    """Rows that follow each other, of images or of captions.

    Attributes:
        at: which they are.
        is_own: whether the loss is of these rows, not only against them.
    """

    at: slice
    is_own: bool


class Tile(NamedTuple):
    """Logits of a block of images and a block of captions.

    Attributes:
        images: where its rows are.
        texts: where its columns are.
        image_features: of its rows, (rows, D).
        text_features: of its columns, (columns, D).
        logits: (rows, columns) float32, which may be overwritten.
        spare: (rows, columns), to be written to.
        scale: by which the logits follow from cosines, ().
    """

    images: slice
    texts: slice
    image_features: Tensor
    text_features: Tensor
    logits: Tensor
    spare: Tensor
    scale: Tensor

    @property
    def is_on_diagonal(self) -> bool:
        """Whether its own diagonal is that of all logits; no other tile has any of it."""
        return self.images == self.texts


class TiledLoss(abc.ABC):
    """A loss of all rows, or of some against all, computed tile by tile.

    Args:
        plain: the same loss with all logits in memory, for whoever differentiates it twice.
        own: rows whose loss it is.
        chunk_size: rows and columns of a tile.
        positives: None: row i of the images belongs to row i of the captions only.
    """

    texts_have_a_loss = True
    """Whether the own rows of captions have a loss of their own, against all images."""

    def __init__(self, plain: Plain, own: range, chunk_size: int, positives: PositivePairs | None):
        self.plain = plain
        self.own = own
        self.chunk_size = chunk_size
        self.positives = positives

    def __call__(self, inputs: Inputs) -> Tensor:
        """The loss, ()."""
        value: Tensor = _InTiles.apply(self, *inputs)
        return value

    @abc.abstractmethod
    def value(self, inputs: Inputs) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The loss, (), and what `differentiate` wants to know."""

    @abc.abstractmethod
    def differentiate(self, tile: Tile, known: tuple[Tensor, ...]) -> Tensor:
        """The derivative of the loss by a tile's logits, (rows, columns), without the denominator.

        It may be written over the logits, and is of the features' type.
        """

    @property
    @abc.abstractmethod
    def denominator(self) -> int:
        """What the sum over all own rows is divided by."""

    def tiles(self, inputs: Inputs) -> Iterator[Tile]:
        """All that the loss depends on; the next overwrites the last."""
        images, texts, scale, bias = inputs
        blocks = self.blocks(len(images))
        side = min(self.chunk_size, len(images))
        # taken once: what is freed between tiles stays with the process, and adds up
        memory = scale.new_empty(2, side * side)
        of_scaled, of_images, of_texts = scale.new_empty(3, side, images.shape[1])

        for image_block in blocks:
            rows = _in_float32(images[image_block.at], of_images)
            scaled = torch.mul(rows, scale, out=of_scaled[: len(rows)])  # (rows, D)
            for text_block in blocks:
                if not self.matters(image_block, text_block):
                    continue

                columns = _in_float32(texts[text_block.at], of_texts)  # (columns, D)
                shape = (len(rows), len(columns))
                logits, spare = (part[: math.prod(shape)].view(shape) for part in memory)
                torch.mm(scaled, columns.T, out=logits)
                if bias is not None:
                    logits.add_(bias)
                yield Tile(image_block.at, text_block.at, rows, columns, logits, spare, scale)

    def gradients(
        self, inputs: Inputs, known: tuple[Tensor, ...], wanted: tuple[bool, ...], outer: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Derivatives by those of `Inputs` that are wanted, of their types, times the loss's own, ()."""
        wants_images, wants_texts, wants_scale, wants_bias = wanted
        images, texts, scale, _ = inputs
        # the scale's follows from that of the images
        of_images = scale.new_zeros(images.shape) if wants_images or wants_scale else None
        of_texts = scale.new_zeros(texts.shape) if wants_texts else None
        of_bias = scale.new_zeros(len(images)) if wants_bias else None

        for tile in self.tiles(inputs):
            derivative = self.differentiate(tile, known)
            if of_images is not None:
                self.add_product(of_images[tile.images], derivative, tile.text_features)  # (rows, D)
            if of_texts is not None:
                self.add_product(of_texts[tile.texts], derivative.T, tile.image_features)  # (columns, D)
            if of_bias is not None:
                of_bias[tile.images] += derivative.sum(dim=1)

        # so far they are those by cosines, times the denominator
        by_cosine, of_scale = scale / self.denominator, None
        if wants_scale and of_images is not None:
            of_scale = self._sum_of_products(images, of_images) / self.denominator * outer
        # one after the other, so that one's memory is free for the other's lower precision
        if of_images is not None:
            of_images = of_images.mul_(by_cosine).mul_(outer).to(images.dtype)
        if of_texts is not None:
            of_texts = of_texts.mul_(by_cosine).mul_(outer).to(texts.dtype)
        if of_bias is not None:
            of_bias = of_bias.sum() / self.denominator * outer
        return of_images if wants_images else None, of_texts, of_scale, of_bias

    def add_product(self, total: Tensor, derivative: Tensor, features: Tensor) -> None:
        """Add to a block's gradient, float32: `(n, m), (m, D) -> (n, D)`."""
        total.addmm_(derivative, features)

    def matters(self, images: Block, texts: Block) -> bool:
        """Whether the loss depends on the tile of these."""
        return images.is_own or (self.texts_have_a_loss and texts.is_own)

    def blocks(self, num_rows: int) -> list[Block]:
        """Blocks that make up all rows, each either of own ones or of others."""
        own = self.own
        before, after = range(own.start), range(own.stop, num_rows)
        return [
            Block(slice(start, min(start + self.chunk_size, part.stop)), part is own)
            for part in (before, own, after)
            for start in range(part.start, part.stop, self.chunk_size)
        ]

    def _sum_of_products(self, left: Tensor, right: Tensor) -> Tensor:
        """Sum of left * right, `(B, D), (B, D) -> ()`, without a product of their size."""
        rows = self.chunk_size if left.is_cuda else ROWS_OF_PRODUCTS
        blocks = zip(left.split(rows), right.split(rows), strict=True)
        return torch.stack([(a * b).sum() for a, b in blocks]).sum()


def _in_float32(features: Tensor, memory: Tensor) -> Tensor:
    """Features of a block, (rows, D), as they are or copied into memory of as many rows or more."""
    return features if features.dtype is torch.float32 else memory[: len(features)].copy_(features)


class _InTiles(torch.autograd.Function):
    """A `TiledLoss` of its `Inputs`, as autograd knows it."""

    @staticmethod
    def forward(
        ctx: Any, loss: TiledLoss, images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor | None
    ) -> Tensor:
        inputs = Inputs(images, texts, scale, bias)
        value, known = loss.value(inputs)
        ctx.loss = loss
        ctx.save_for_backward(*inputs, *known)
        return value

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        inputs, known = Inputs(*ctx.saved_tensors[:4]), ctx.saved_tensors[4:]
        wanted = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():  # create_graph: these gradients are to be differentiated
            return None, *_plain_gradients(ctx.loss, inputs, wanted, outer)

        return None, *ctx.loss.gradients(inputs, known, wanted, outer)


def _plain_gradients(
    loss: TiledLoss, inputs: Inputs, wanted: tuple[bool, ...], outer: Tensor
) -> Iterator[Tensor | None]:
    """Gradients that have one themselves, with all B x B logits in memory."""
    by = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
    gradients = iter(torch.autograd.grad(loss.plain(inputs), by, outer, create_graph=True))
    return (next(gradients) if is_wanted else None for is_wanted in wanted)
