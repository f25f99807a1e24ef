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
        label_smoothing: share of the target that is spread over the whole row.

    Raises:
        SettingError: when the share is out of range.
    """

    def __init__(self, *, multi_positive: bool = False, label_smoothing: float = 0.0):
        if not 0 <= label_smoothing < 1:
            raise SettingError("label_smoothing", label_smoothing, "must lie in 0 <= share < 1")
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
        with torch.autocast(image_features.device.type, enabled=False):
            logits_per_image = logit_scale.float() * image_features.float() @ text_features.float().T
            targets = targets_per_text = torch.arange(len(logits_per_image), device=logits_per_image.device)
            if self.multi_positive and positives is not None:
                shares = positives.to(logits_per_image.dtype)
                targets = shares / shares.sum(dim=1, keepdim=True)
                targets_per_text = shares.T / shares.T.sum(dim=1, keepdim=True)
            smoothing = self.label_smoothing
            return (
                F.cross_entropy(logits_per_image, targets, label_smoothing=smoothing)
                + F.cross_entropy(logits_per_image.T, targets_per_text, label_smoothing=smoothing)
            ) / 2
