"""The whole model: two towers, the projection, the temperature, and what the loss learns."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from miniclip.models.projection import Projection
from miniclip.models.temperature import Temperature


class CLIPOutput(NamedTuple):
    """What the model says of a batch of pairs.

    Attributes:
        image_features: (B, embed_dim) float32, of length 1.
        text_features: (B, embed_dim) float32, of length 1.
        logit_scale: () float32, the factor on the cosine similarities.
        similarity: (B, B) float32, the cosines that the temperature read; no gradient reaches them.
    """

    image_features: Tensor
    text_features: Tensor
    logit_scale: Tensor
    similarity: Tensor

    def loss_inputs(self, gather: Callable[[Tensor], Tensor] | None = None) -> dict[str, Tensor]:
        """What every loss is called with, by name; besides, a batch has its `positives`.

        Args:
            gather: brings the rows of all processes together, `(B, ...) -> (B * size, ...)`; None takes
                those of this one.
        """
        image_features, text_features = self.image_features, self.text_features
        if gather is not None:
            image_features, text_features = gather(image_features), gather(text_features)
        return {
            "image_features": image_features,
            "text_features": text_features,
            "logit_scale": self.logit_scale,
        }


class CLIP(nn.Module):
    """Images and captions in one space.

    Args:
        image_encoder: `(B, 3, H, W) -> (B, embed_dim)`.
        text_encoder: `(token_ids (B, L), attention_mask (B, L)) -> (B, embed_dim)`.
        projection: carries each tower's output into the joint space.
        temperature: `similarity (B, B) -> logit_scale ()`.
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
        similarity: Tensor | None = None,
    ) -> CLIPOutput:
        """A batch of pairs. Given a `similarity`, the temperature reads it in place of this pass's own."""
        image_features = self.encode_image(images)
        text_features = self.encode_text(token_ids, attention_mask)
        return self.from_features(image_features, text_features, similarity)

    def from_features(
        self, image_features: Tensor, text_features: Tensor, similarity: Tensor | None = None
    ) -> CLIPOutput:
        """The same of features (B, embed_dim) that were encoded before."""
        if similarity is None:
            similarity = _similarity(image_features, text_features)
        return CLIPOutput(image_features, text_features, self.temperature(similarity), similarity)

    def encode_image(self, images: Tensor) -> Tensor:
        """`images (B, 3, H, W) -> image_features (B, embed_dim)`, float32, of length 1."""
        return _unit(self.projection.image(self.image_encoder(images)))

    def encode_text(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`token_ids, attention_mask (B, L) -> text_features (B, embed_dim)`, float32, of length 1."""
        return _unit(self.projection.text(self.text_encoder(token_ids, attention_mask)))


def _similarity(image_features: Tensor, text_features: Tensor) -> Tensor:
    """`(B, D), (B, D) -> (B, B)`, float32 also under autocast: a variance of 1e-8 is lost in bfloat16."""
    with torch.autocast(image_features.device.type, enabled=False):
        return image_features.detach() @ text_features.detach().T


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1)
