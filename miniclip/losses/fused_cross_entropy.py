"""The cross-entropy in tiles by kernels that torch.compile makes, each of which reads a tile once or twice.

Tiles of bfloat16 features are products of bfloat16 that are added up in float32, which loses nothing. What
the features are multiplied by on the way back is rounded to bfloat16, as their gradients are; that of the
scale, a sum over all of them, is then right to 3e-4 at 256 pairs, and to 1e-5 at 8,192.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from miniclip.losses.tiled_cross_entropy import RowSums, TiledCrossEntropy
from miniclip.losses.tiles import Inputs, Tile

SHAPES = 16
"""Kinds of tiles that kernels are made for: of one size or any, on the diagonal or not, of either type."""


class FusedCrossEntropy(TiledCrossEntropy):
    """A `TiledCrossEntropy` with one positive for each row and no label smoothing.

    Its tiles hold cosines where others hold logits: the kernels multiply them by the scale.
    """

    @staticmethod
    def takes(features: Tensor) -> bool:
        """Whether there are products for features of this type on this device."""
        return features.dtype is torch.float32 or (features.is_cuda and features.dtype is torch.bfloat16)

    def tiles(self, inputs: Inputs) -> Iterator[Tile]:
        images, texts, scale, _ = inputs
        blocks = self.blocks(len(images))
        memory = scale.new_empty(min(self.chunk_size, len(images)) ** 2)

        for image_block in blocks:
            for text_block in blocks:
                if not self.matters(image_block, text_block):
                    continue

                rows, columns = images[image_block.at], texts[text_block.at]
                cosines = memory[: len(rows) * len(columns)].view(len(rows), len(columns))
                if rows.dtype is torch.float32:
                    torch.mm(rows, columns.T, out=cosines)
                else:
                    torch.mm(rows, columns.T, out_dtype=torch.float32, out=cosines)
                spare = cosines[:0]  # nothing is written but by kernels
                yield Tile(image_block.at, text_block.at, rows, columns, cosines, spare, scale)

    def add_tile(self, tile: Tile, of_images: RowSums, of_texts: RowSums) -> None:
        sums = of_images.largest, of_images.total, of_texts.largest, of_texts.total
        rows = tile.images, tile.images, tile.texts, tile.texts
        before = (each[at] for each, at in zip(sums, rows, strict=True))
        added = compiled(_add_exponentials)(tile.logits, tile.scale, *before)
        for each, at, new in zip(sums, rows, added, strict=True):
            each[at] = new

        if tile.is_on_diagonal:
            right = tile.logits.diagonal() * tile.scale
            of_images.add_positives(tile.images, right, 1)
            of_texts.add_positives(tile.texts, right, 1)

    def differentiate(self, tile: Tile, known: tuple[Tensor, ...]) -> Tensor:
        of_images = [each[tile.images] for each in known[:3]]
        of_texts = [each[tile.texts] for each in known[3:]]
        dtype = tile.image_features.dtype
        derivative: Tensor = compiled(_derivative)(
            tile.logits, tile.scale, of_images, of_texts, tile.is_on_diagonal, dtype
        )
        return derivative

    def add_product(self, total: Tensor, derivative: Tensor, features: Tensor) -> None:
        if features.dtype is torch.float32:
            total.addmm_(derivative, features)
        else:
            torch.addmm(total, derivative, features, out_dtype=torch.float32, out=total)


@cache
def compiled(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel that torch.compile makes when it is called first, and again for tiles of other sizes."""
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, SHAPES)
    return torch.compile(kernel)


def _add_exponentials(
    cosines: Tensor,
    scale: Tensor,
    image_largest: Tensor,
    image_total: Tensor,
    text_largest: Tensor,
    text_total: Tensor,
) -> tuple[Tensor, ...]:
    """Both sides' largest logits and sums of exponentials, with a tile's added; see `RowSums`."""
    logits = cosines * scale
    of_images = torch.maximum(image_largest, logits.amax(dim=1))
    of_texts = torch.maximum(text_largest, logits.amax(dim=0))
    image_sums = (logits - of_images[:, None]).exp().sum(dim=1)
    text_sums = (logits - of_texts).exp().sum(dim=0)
    return (
        of_images,
        image_total * (image_largest - of_images).exp() + image_sums,
        of_texts,
        text_total * (text_largest - of_texts).exp() + text_sums,
    )


def _derivative(
    cosines: Tensor,
    scale: Tensor,
    of_images: list[Tensor],
    of_texts: list[Tensor],
    is_on_diagonal: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Both softmaxes of a tile without their targets, (rows, columns); see `RowSums.known`."""
    image_largest, image_factor, image_target = of_images
    text_largest, text_factor, text_target = of_texts
    logits = cosines * scale
    derivative = (logits - image_largest[:, None]).exp() * image_factor[:, None]
    derivative = derivative + (logits - text_largest).exp() * text_factor
    if is_on_diagonal:
        rows = torch.arange(len(cosines), device=cosines.device)
        derivative = derivative - torch.where(rows[:, None] == rows, image_target + text_target, 0)
    return derivative.to(dtype)
