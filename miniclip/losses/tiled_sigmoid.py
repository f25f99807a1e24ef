"""The sigmoid loss in tiles."""

import torch
import torch.nn.functional as F
from torch import Tensor

from miniclip.losses.tiles import Inputs, Tile, TiledLoss


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
