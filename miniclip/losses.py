"""Contrastive losses: functions of features, scale and parameters of their own, in float32."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from miniclip.errors import SettingError
from miniclip.positives import PositivePairs

__all__ = ["ClipLoss", "Loss", "SigLipLoss"]


class Loss(nn.Module):
    """What every loss is: called by name with `CLIPOutput.loss_inputs` and `positives` -> ().

    Its parameters and buffers, if it has any, are part of the model: they are trained with it, without
    decay and without SAM's perturbation, and saved and restored with its weights.
    """

    def chance(self, batch_size: int) -> float:
        """Value for a model that knows nothing, which `val/loss_over_chance` divides by; NaN: not known."""
        return math.nan


class ClipLoss(Loss):
    """Symmetric cross-entropy over the B x B similarities (Radford et al. 2021, figure 3).

    Row i of the images belongs to row i of the captions; all other pairs of the batch are negatives.

    Args:
        multi_positive: take captions of one image, and equal captions of two, for positives as well: the
            target of a row is then spread evenly over its positives.
        label_smoothing: fraction of the target that is spread over the whole row.

    Raises:
        SettingError: when the fraction is out of range.
    """

    def __init__(self, *, multi_positive: bool = False, label_smoothing: float = 0.0):
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise SettingError("label_smoothing", label_smoothing, "must lie in 0 <= fraction < 1")
        self.multi_positive = multi_positive
        self.label_smoothing = label_smoothing

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        positives: PositivePairs | None = None,
    ) -> Tensor:
        """`(B, D), (B, D), () -> loss ()`; ln(B) is the value of a model that knows nothing.

        Args:
            positives: which captions are right for which images; used by `multi_positive`.
        """
        # float32 also under autocast: a scale of 100 leaves bfloat16 too few digits
        with torch.autocast(image_features.device.type, enabled=False):
            # (B, D) @ (D, B) -> (B, B)
            logits_per_image = logit_scale.float() * image_features.float() @ text_features.float().T
            of_images, of_texts = self._targets(logits_per_image, positives)

            smoothing = self.label_smoothing
            image_loss = F.cross_entropy(logits_per_image, of_images, label_smoothing=smoothing)
            text_loss = F.cross_entropy(logits_per_image.T, of_texts, label_smoothing=smoothing)
            return (image_loss + text_loss) / 2

    def _targets(self, logits: Tensor, positives: PositivePairs | None) -> tuple[Tensor, Tensor]:
        """Targets of the rows of images and of texts: indices (B,), or with several positives (B, B)."""
        if not self.multi_positive or positives is None:
            diagonal = torch.arange(len(logits), device=logits.device)
            return diagonal, diagonal

        fractions = positives.table().to(logits.dtype)
        of_images = fractions / fractions.sum(dim=1, keepdim=True)
        of_texts = fractions.T / fractions.T.sum(dim=1, keepdim=True)
        return of_images, of_texts

    def chance(self, batch_size: int) -> float:
        """ln(B): every caption of the batch is as likely as every other."""
        return math.log(batch_size)


class SigLipLoss(Loss):
    """Binary cross-entropy of each of the B x B pairs (Zhai et al. 2023, arXiv 2303.15343, algorithm 1).

    The logit of a pair is `logit_scale * cosine + logit_bias`, with a learned bias. Pairs are summed, and
    the sum is divided by B.

    Args:
        initial_bias: logit_bias before the first step; the paper's -10 says that most pairs are wrong.
        multi_positive: take captions of one image, and equal captions of two, for positives as well.
    """

    def __init__(self, *, initial_bias: float, multi_positive: bool = False):
        super().__init__()
        self.multi_positive = multi_positive
        self.logit_bias = nn.Parameter(torch.tensor(float(initial_bias)))

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        positives: PositivePairs | None = None,
    ) -> Tensor:
        """`(B, D), (B, D), () -> loss ()`.

        Args:
            positives: which captions are right for which images; used by `multi_positive`.
        """
        # float32 also under autocast: a scale of 100 leaves bfloat16 too few digits
        with torch.autocast(image_features.device.type, enabled=False):
            # (B, D) @ (D, B) -> (B, B)
            similarity = image_features.float() @ text_features.float().T
            logits = logit_scale.float() * similarity + self.logit_bias

            is_right = self._right_pairs(logits, positives)
            signed = torch.where(is_right, logits, -logits)
            return -F.logsigmoid(signed).sum() / len(logits)

    def _right_pairs(self, logits: Tensor, positives: PositivePairs | None) -> Tensor:
        """Which pairs are positives, (B, B) bool."""
        if self.multi_positive and positives is not None:
            return positives.table()
        return torch.eye(len(logits), dtype=torch.bool, device=logits.device)

    def chance(self, batch_size: int) -> float:
        """The least with one logit for all pairs: B times the entropy of a pair that is right once in B."""
        if batch_size == 1:
            return 0.0
        num_wrong = batch_size - 1
        return math.log(batch_size) + num_wrong * math.log(batch_size / num_wrong)
