"""The whole model: two towers, the projection, the temperature, and what the loss learns."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from miniclip.models.projection import Projection
from miniclip.models.temperature import Temperature

LARGEST_TABLE = 2048
"""Of so many pairs, all cosines are written down for their variance: 16 MB."""


class CLIPOutput(NamedTuple):
    """What the model says of a batch of pairs.

    Attributes:
        image_features: (B, embed_dim) float32, of length 1.
        text_features: (B, embed_dim) float32, of length 1.
        logit_scale: () float32, the factor on the cosine similarities.
        variance: () float32, that of all B x B cosines, without a gradient; None where the temperature
            reads none.
    """

    image_features: Tensor
    text_features: Tensor
    logit_scale: Tensor
    variance: Tensor | None

    def loss_inputs(self) -> dict[str, Tensor]:
        """What every loss is called with, by name; besides, a batch has its `positives`."""
        return {
            "image_features": self.image_features,
            "text_features": self.text_features,
            "logit_scale": self.logit_scale,
        }


class CLIP(nn.Module):
    """Images and captions in one space.

    Args:
        image_encoder: `(B, 3, H, W) -> (B, embed_dim)`.
        text_encoder: `(token_ids (B, L), attention_mask (B, L)) -> (B, embed_dim)`.
        projection: carries each tower's output into the joint space.
        temperature: `variance () -> logit_scale ()`.
        loss: what the features are trained by. `forward` does not call it; it is here because its own
            parameters are trained, saved and restored with all others.
    """

    def __init__(
        self,
        image_encoder: nn.Module,
        text_encoder: nn.Module,
        projection: Projection,
        temperature: Temperature,
        loss: nn.Module,
    ):
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.projection = projection
        self.temperature = temperature
        self.loss = loss

    def forward(
        self,
        images: Tensor,
        token_ids: Tensor,
        attention_mask: Tensor,
        variance: Tensor | None = None,
    ) -> CLIPOutput:
        """A batch of pairs. Given a `variance`, the temperature reads it in place of this pass's own."""
        image_features = self.encode_image(images)
        text_features = self.encode_text(token_ids, attention_mask)
        return self.from_features(image_features, text_features, variance)

    def from_features(
        self, image_features: Tensor, text_features: Tensor, variance: Tensor | None = None
    ) -> CLIPOutput:
        """The same of features (B, embed_dim) that were encoded before."""
        if variance is None and self.temperature.reads_variance:
            variance = similarity_variance(image_features, text_features)
        return CLIPOutput(image_features, text_features, self.temperature(variance), variance)

    def encode_image(self, images: Tensor) -> Tensor:
        """`images (B, 3, H, W) -> image_features (B, embed_dim)`, float32, of length 1."""
        return _unit(self.projection.image(self.image_encoder(images)))

    def encode_text(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`token_ids, attention_mask (B, L) -> text_features (B, embed_dim)`, float32, of length 1."""
        return _unit(self.projection.text(self.text_encoder(token_ids, attention_mask)))


@torch.no_grad()
def similarity_variance(image_features: Tensor, text_features: Tensor) -> Tensor:
    """Variance of all B x B cosines, `(B, D), (B, D) -> ()`; of a large batch, without a table of them."""
    # float32 also under autocast: a variance of 1e-8 is lost in bfloat16
    with torch.autocast(image_features.device.type, enabled=False):
        if len(image_features) <= LARGEST_TABLE:
            return (image_features @ text_features.T).var(correction=0)

        # x = mean + rest for both: what the products of the four parts vary by adds up
        image_mean, text_mean = image_features.mean(dim=0), text_features.mean(dim=0)  # (D,)
        images, texts = image_features - image_mean, text_features - text_mean  # (B, D)
        of_both = (_covariance(images) * _covariance(texts)).sum()
        return (images @ text_mean).square().mean() + (texts @ image_mean).square().mean() + of_both


def _covariance(centered: Tensor) -> Tensor:
    """`(B, D) -> (D, D)`."""
    return centered.T @ centered / len(centered)


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1)
