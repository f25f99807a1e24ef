"""Contrastive losses: pure functions of features and scale, in float32."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ClipLoss"]


class ClipLoss:
    """Symmetric cross-entropy over the B x B similarities (Radford et al. 2021, figure 3).

    Row i of the images belongs to row i of the captions; all other pairs of the batch are negatives.
    """

    def __call__(self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
        """`(B, D), (B, D), () -> loss ()`; ln(B) is the value of a model that knows nothing."""
        with torch.autocast(image_features.device.type, enabled=False):
            logits_per_image = logit_scale.float() * image_features.float() @ text_features.float().T
            targets = torch.arange(len(logits_per_image), device=logits_per_image.device)
            return (
                F.cross_entropy(logits_per_image, targets) + F.cross_entropy(logits_per_image.T, targets)
            ) / 2
