"""Frozen towers: what they make of an image or a caption never changes, so that it is computed once."""

from typing import Any

from torch import Tensor, nn

from miniclip.errors import UserError
from miniclip.models.clip import CLIP

FREEZE = {
    "image": "encoder.image.trainable=none",
    "text": "encoder/text=hf encoder.text.frozen=true",
}
"""How each tower is frozen, as the user types it."""


def check_frozen(model: CLIP) -> None:
    """Hold both towers against what cached features need.

    Raises:
        UserError: when a tower learns, so that its features change with every step.
    """
    for tower, encoder in (("image", model.image_encoder), ("text", model.text_encoder)):
        if not getattr(encoder, "frozen", False):
            raise UserError(
                f"data.cache=features: the {tower} tower learns, so that its features change with every "
                f"step. Freeze it: {FREEZE[tower]}; or give data.cache=none"
            )


def head_of(model: CLIP) -> CLIP:
    """What learns of a model of frozen towers: their linear layers and all behind, the same weights.

    It reads the towers' features (B, width) in place of images and of token ids.
    """
    image_encoder: Any = model.image_encoder
    text_encoder: Any = model.text_encoder
    return CLIP(
        image_encoder.proj,
        _TextHead(text_encoder.proj),
        model.projection,
        model.temperature,
        model.loss,
    )


class _TextHead(nn.Module):
    """A text tower's linear layer: `text features (B, width), a mask -> (B, embed_dim)`."""

    def __init__(self, proj: nn.Module):
        super().__init__()
        self.proj = proj

    def forward(self, features: Tensor, attention_mask: Tensor) -> Tensor:
        return self.proj(features)
