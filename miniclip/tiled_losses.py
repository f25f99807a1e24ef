"""Contrastive losses in tiles: exact in value and gradient, with memory linear in the batch.

The B x B logits are computed one tile at a time, a block of images against a block of captions, and never
stored: the forward pass keeps a few sums of each row, the backward pass computes each tile again.
"""

import abc
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
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


class TiledCrossEntropy(TiledLoss):
    """Mean cross-entropy of own images among all captions, and of own captions among all images, halved.

    Args:
        label_smoothing: fraction of a row's target that is spread over all of it; the rest is spread over
            its positives.
    """

    def __init__(
        self,
        plain: Plain,
        own: range,
        chunk_size: int,
        positives: PositivePairs | None,
        label_smoothing: float,
    ):
        super().__init__(plain, own, chunk_size, positives)
        self.label_smoothing = label_smoothing

    @property
    def denominator(self) -> int:
        return 2 * len(self.own)

    def value(self, inputs: Inputs) -> tuple[Tensor, tuple[Tensor, ...]]:
        images, texts, scale, _ = inputs
        of_images, of_texts = RowSums(len(images), scale), RowSums(len(texts), scale)
        for tile in self.tiles(inputs):
            self.add_tile(tile, of_images, of_texts)

        smoothing, own = self.label_smoothing, slice(self.own.start, self.own.stop)
        image_losses = of_images.cross_entropy(own, smoothing, self._mean_logits(scale, images[own], texts))
        text_losses = of_texts.cross_entropy(own, smoothing, self._mean_logits(scale, texts[own], images))
        known = (*of_images.known(own, smoothing), *of_texts.known(own, smoothing))
        return (image_losses.mean() + text_losses.mean()) / 2, known

    def add_tile(self, tile: Tile, of_images: "RowSums", of_texts: "RowSums") -> None:
        """Add a tile to the sums of its rows and of its columns."""
        of_images.add_exponentials(tile.images, tile.logits, tile.spare)
        of_texts.add_exponentials(tile.texts, tile.logits.T, tile.spare.T)
        if self.positives is not None:
            is_right = self.positives.table(tile.images, tile.texts)
            logits = torch.mul(tile.logits, is_right, out=tile.spare)
            of_images.add_positives(tile.images, logits.sum(dim=1), is_right.sum(dim=1))
            of_texts.add_positives(tile.texts, logits.sum(dim=0), is_right.sum(dim=0))
        elif tile.is_on_diagonal:
            of_images.add_positives(tile.images, tile.logits.diagonal(), 1)
            of_texts.add_positives(tile.texts, tile.logits.diagonal(), 1)

    def differentiate(self, tile: Tile, known: tuple[Tensor, ...]) -> Tensor:
        image_largest, image_factor, image_target, text_largest, text_factor, text_target = known
        gradient, spare = tile.logits, tile.spare
        # both softmaxes: that of the rows of images, and that of the rows of captions, which are columns
        torch.sub(gradient, image_largest[tile.images, None], out=spare).exp_()
        gradient.sub_(text_largest[tile.texts]).exp_().mul_(text_factor[tile.texts])
        gradient.addcmul_(spare, image_factor[tile.images, None])

        if self.positives is not None:
            is_right = self.positives.table(tile.images, tile.texts)
            torch.add(image_target[tile.images, None], text_target[tile.texts], out=spare)
            gradient.sub_(spare.mul_(is_right))
        elif tile.is_on_diagonal:
            gradient.diagonal().sub_(image_target[tile.images] + text_target[tile.texts])

        if self.label_smoothing:
            num_own = image_target[tile.images, None].sign() + text_target[tile.texts].sign()
            gradient.sub_(num_own, alpha=self.label_smoothing / len(image_target))
        return gradient

    def _mean_logits(self, scale: Tensor, rows: Tensor, others: Tensor) -> Tensor:
        """Each row's mean of all its logits, `(own, D), (B, D) -> (own,)`; 0 where none is smoothed."""
        if not self.label_smoothing:
            return torch.zeros_like(scale)
        mean = others.mean(dim=0, dtype=torch.float32)  # (D,)
        return scale * torch.cat([part.float() @ mean for part in rows.split(self.chunk_size)])


class TiledSigmoid(TiledLoss):
    """Binary cross-entropy of each own image and each caption, summed and divided by the own images."""

    texts_have_a_loss = False

    @property
    def denominator(self) -> int:
        return len(self.own)

    def value(self, inputs: Inputs) -> tuple[Tensor, tuple[Tensor, ...]]:
        losses = inputs.scale.new_zeros(len(inputs.images))  # (B,)
        for tile in self.tiles(inputs):
            self._negate_positives(tile)
            losses[tile.images] += F.softplus(tile.logits).sum(dim=1)
        return losses.sum() / self.denominator, ()

    def differentiate(self, tile: Tile, known: tuple[Tensor, ...]) -> Tensor:
        self._negate_positives(tile)
        tile.logits.sigmoid_()
        self._negate_positives(tile)
        return tile.logits

    def _negate_positives(self, tile: Tile) -> None:
        if self.positives is not None:
            is_right = self.positives.table(tile.images, tile.texts)
            torch.where(is_right, -tile.logits, tile.logits, out=tile.logits)
        elif tile.is_on_diagonal:
            tile.logits.diagonal().neg_()


class RowSums:
    """What is kept of each row of logits, of images or of captions, while its tiles come in.

    Args:
        num_rows: B.
        like: a tensor of the sums' device and type.

    Attributes:
        largest: (B,), the largest logit so far.
        total: (B,), sum of exp(logit - largest).
        right: (B,), sum of the positives' logits.
        num_right: (B,), how many these are.
    """

    def __init__(self, num_rows: int, like: Tensor):
        self.largest = like.new_full((num_rows,), -math.inf)
        self.total, self.right, self.num_right = like.new_zeros(3, num_rows)

    def add_exponentials(self, rows: slice, logits: Tensor, spare: Tensor) -> None:
        """Add logits, (rows, columns), to the sums of some rows."""
        largest = torch.maximum(self.largest[rows], logits.amax(dim=1))
        rescaled = self.total[rows] * (self.largest[rows] - largest).exp()
        exponentials = torch.sub(logits, largest[:, None], out=spare).exp_()
        self.total[rows] = rescaled + exponentials.sum(dim=1)
        self.largest[rows] = largest

    def add_positives(self, rows: slice, logits: Tensor, count: Tensor | int) -> None:
        """Add the sum of some rows' positives, (rows,), and their number."""
        self.right[rows] += logits
        self.num_right[rows] += count

    def cross_entropy(self, own: slice, smoothing: float, mean_logits: Tensor) -> Tensor:
        """Loss of each own row, `(own,) -> (own,)`, given the means of all its logits."""
        target = (1 - smoothing) * self.right[own] / self.num_right[own] + smoothing * mean_logits
        return self.total[own].log() + (self.largest[own] - target)

    def known(self, own: slice, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
        """Largest logit, factor of the softmax and target of each positive, each (B,); 0 where not own."""
        # a softmax by the log-sum-exp would lose its digits: of 100, float32 rounds off 4e-6
        factor, target = torch.zeros_like(self.total), torch.zeros_like(self.total)
        factor[own] = 1 / self.total[own]
        target[own] = (1 - smoothing) / self.num_right[own]
        return self.largest, factor, target


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
