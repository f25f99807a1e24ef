"""The binary cross-entropy of SigLIP."""

import math
import typing
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from miniclip.errors import one_of
from miniclip.losses.base import Gather, Loss, check_chunk_size, check_pairs, row_numbers
from miniclip.losses.tiled_sigmoid import TiledSigmoid
from miniclip.losses.tiles import Inputs
from miniclip.positives import ALL, PositivePairs


class SigLipLoss(Loss):
    """Binary cross-entropy of each of the B x B pairs (Zhai et al. 2023, arXiv 2303.15343, algorithm 1).

    The logit of a pair is `logit_scale * cosine + logit_bias`, with a learned bias. Pairs are summed, and
    the sum is divided by B.

    Args:
        initial_bias: logit_bias before the first step; the paper's -10 says that most pairs are wrong.
        multi_positive: take captions of one image, and equal captions of two, for positives as well.
        chunk_size: rows and columns of the tiles that the similarities are computed in, none of which is
            kept; None is all at once.
        gather: see `Loss`.

    Raises:
        SettingError: when a tile has no rows.
    """

    takes_rows = True

    def __init__(
        self,
        *,
        initial_bias: float,
        multi_positive: bool = False,
        chunk_size: int | None = None,
        gather: Gather = "global",
    ):
        super().__init__()
        one_of("gather", gather, typing.get_args(Gather))
        self.gather = gather
        check_chunk_size(chunk_size)
        self.multi_positive = multi_positive
        self.chunk_size = chunk_size
        self.logit_bias = nn.Parameter(torch.tensor(float(initial_bias)))

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        positives: PositivePairs | None = None,
        rows: slice | None = None,
    ) -> Tensor:
        """`(B, D), (B, D), () -> loss ()`.

        Args:
            positives: which captions are right for which images; used by `multi_positive`.
            rows: whose loss it is: of these images and all captions, divided by their number; None is all.

        Raises:
            UserError: when there are more images than captions, or fewer.
        """
        check_pairs(image_features, text_features)
        positives = positives if self.multi_positive else None
        # float32 also under autocast: a scale of 100 leaves bfloat16 too few digits
        with torch.autocast(image_features.device.type, enabled=False):
            inputs = Inputs(image_features, text_features, logit_scale.float(), self.logit_bias)
            plain = partial(self._at_once, positives=positives, rows=ALL if rows is None else rows)
            if self.chunk_size is None or self.chunk_size >= len(image_features):
                return plain(inputs)

            own = row_numbers(rows, len(image_features))
            return TiledSigmoid(plain, own, self.chunk_size, positives)(inputs)

    def _at_once(self, inputs: Inputs, *, positives: PositivePairs | None, rows: slice) -> Tensor:
        """The loss with all similarities in memory."""
        images, texts, scale = inputs.images.float(), inputs.texts.float(), inputs.scale
        similarity = images[rows] @ texts.T  # (rows, D) @ (D, B) -> (rows, B)
        logits = scale * similarity + self.logit_bias

        is_right = self._right_pairs(logits, positives, rows)
        signed = torch.where(is_right, logits, -logits)
        return -F.logsigmoid(signed).sum() / len(logits)

    def _right_pairs(self, logits: Tensor, positives: PositivePairs | None, rows: slice) -> Tensor:
        """Which pairs are positives, (rows, B) bool."""
        if positives is not None:
            return positives.table(rows=rows)
        return torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)[rows]

    def chance(self, batch_size: int) -> float:
        """The least with one logit for all pairs: B times the entropy of a pair that is right once in B."""
        if batch_size == 1:
            return 0.0
        num_wrong = batch_size - 1
        return math.log(batch_size) + num_wrong * math.log(batch_size / num_wrong)
