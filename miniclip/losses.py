"""Contrastive losses: pure functions of features and scale, in float32."""

import torch
import torch.nn.functional as F
from torch import Tensor

from miniclip.errors import SettingError

__all__ = ["ClipLoss"]


class ClipLoss:
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
        if not 0 <= label_smoothing < 1:
            raise SettingError("label_smoothing", label_smoothing, "must lie in 0 <= fraction < 1")
        self.multi_positive = multi_positive
        self.label_smoothing = label_smoothing

    def __call__(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        positives: Tensor | None = None,
    ) -> Tensor:
        """`(B, D), (B, D), () -> loss ()`; ln(B) is the value of a model that knows nothing.

        Args:
            positives: (B, B) bool, true where caption j is right for image i; used by `multi_positive`.
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

    def _targets(self, logits: Tensor, positives: Tensor | None) -> tuple[Tensor, Tensor]:
        """Targets of the rows of images and of texts: indices (B,), or with several positives (B, B)."""
        if not self.multi_positive or positives is None:
            diagonal = torch.arange(len(logits), device=logits.device)
            return diagonal, diagonal

        fractions = positives.to(logits.dtype)
        of_images = fractions / fractions.sum(dim=1, keepdim=True)
        of_texts = fractions.T / fractions.T.sum(dim=1, keepdim=True)
        return of_images, of_texts
