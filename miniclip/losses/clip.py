"""The symmetric cross-entropy of CLIP."""

import math
import typing
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from miniclip.errors import in_range, one_of
from miniclip.losses.base import Gather, Loss, check_chunk_size, check_pairs, row_numbers
from miniclip.losses.fused_cross_entropy import FusedCrossEntropy
from miniclip.losses.tiled_cross_entropy import TiledCrossEntropy
from miniclip.losses.tiles import Inputs
from miniclip.positives import ALL, PositivePairs


class ClipLoss(Loss):
    """Symmetric cross-entropy over the B x B similarities (Radford et al. 2021, figure 3).

    Row i of the images belongs to row i of the captions; all other pairs of the batch are negatives.

    Args:
        multi_positive: take captions of one image, and equal captions of two, for positives as well: the
            target of a row is then spread evenly over its positives.
        label_smoothing: fraction of the target that is spread over the whole row.
        chunk_size: rows and columns of the tiles that the similarities are computed in, none of which is
            kept; None is all at once.
        compile_tiles: let torch.compile make kernels for the tiles, where each row has one positive and
            nothing is smoothed.
        gather: see `Loss`.

    Raises:
        SettingError: when the fraction is out of range, or a tile has no rows.
    """

    takes_rows = True

    def __init__(
        self,
        *,
        multi_positive: bool = False,
        label_smoothing: float = 0.0,
        chunk_size: int | None = None,
        compile_tiles: bool = False,
        gather: Gather = "global",
    ):
        super().__init__()
        one_of("gather", gather, typing.get_args(Gather))
        self.gather = gather
        in_range("label_smoothing", label_smoothing, 0, 1, includes_high=False)
        check_chunk_size(chunk_size)
        self.multi_positive = multi_positive
        self.label_smoothing = label_smoothing
        self.chunk_size = chunk_size
        self.compile_tiles = compile_tiles

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        positives: PositivePairs | None = None,
        rows: slice | None = None,
    ) -> Tensor:
        """`(B, D), (B, D), () -> loss ()`; ln(B) is the value of a model that knows nothing.

        Args:
            positives: which captions are right for which images; used by `multi_positive`.
            rows: whose loss it is: of these images against all captions, and of these captions against
                all images; None is all.

        Raises:
            UserError: when there are more images than captions, or fewer.
        """
        check_pairs(image_features, text_features)
        positives = positives if self.multi_positive else None
        # float32 also under autocast: a scale of 100 leaves bfloat16 too few digits
        with torch.autocast(image_features.device.type, enabled=False):
            inputs = Inputs(image_features, text_features, logit_scale.float(), bias=None)
            plain = partial(self._at_once, positives=positives, rows=rows)
            if self.chunk_size is None or self.chunk_size >= len(image_features):
                return plain(inputs)

            own = row_numbers(rows, len(image_features))
            is_plain = positives is None and self.label_smoothing == 0
            is_fused = self.compile_tiles and is_plain and FusedCrossEntropy.takes(image_features)
            tiled = FusedCrossEntropy if is_fused else TiledCrossEntropy
            return tiled(plain, own, self.chunk_size, positives, self.label_smoothing)(inputs)

    def _at_once(self, inputs: Inputs, *, positives: PositivePairs | None, rows: slice | None) -> Tensor:
        """The loss with all similarities in memory."""
        images, texts, scale = inputs.images.float(), inputs.texts.float(), inputs.scale
        scaled = scale * images
        if rows is None:
            logits_per_image = scaled @ texts.T  # (B, D) @ (D, B) -> (B, B)
            logits_per_text = logits_per_image.T
        else:
            logits_per_image = scaled[rows] @ texts.T  # (rows, D) @ (D, B) -> (rows, B)
            logits_per_text = texts[rows] @ scaled.T

        of_images, of_texts = self._targets(logits_per_image, positives, ALL if rows is None else rows)
        image_loss = F.cross_entropy(logits_per_image, of_images, label_smoothing=self.label_smoothing)
        text_loss = F.cross_entropy(logits_per_text, of_texts, label_smoothing=self.label_smoothing)
        return (image_loss + text_loss) / 2

    def _targets(
        self, logits: Tensor, positives: PositivePairs | None, rows: slice
    ) -> tuple[Tensor, Tensor]:
        """Targets of rows of images and of texts: indices (rows,), or with several positives (rows, B)."""
        if positives is None:
            diagonal = torch.arange(logits.shape[1], device=logits.device)[rows]
            return diagonal, diagonal

        right_texts = positives.table(rows=rows).to(logits.dtype)
        right_images = positives.table(columns=rows).to(logits.dtype).T
        of_images = right_texts / right_texts.sum(dim=1, keepdim=True)
        of_texts = right_images / right_images.sum(dim=1, keepdim=True)
        return of_images, of_texts

    def chance(self, batch_size: int) -> float:
        """ln(B): every caption of the batch is as likely as every other."""
        return math.log(batch_size)
