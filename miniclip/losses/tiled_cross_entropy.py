"""The cross-entropy in tiles."""

import math

import torch
from torch import Tensor

from miniclip.losses.tiles import Inputs, Plain, Tile, TiledLoss
from miniclip.positives import PositivePairs


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
