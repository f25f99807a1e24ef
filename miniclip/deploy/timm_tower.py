"""Image towers of torchvision as timm has them: other libraries take image towers from timm alone."""

from typing import NamedTuple

from torch import Tensor, nn

RESNETS = ("resnet", "resnext", "wide_resnet")
"""Beginnings of the names of networks that both have, under the same name and with the same weights."""

VITS = {
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
    "vit_l_32": "vit_large_patch32_224",
    "vit_h_14": "vit_huge_patch14_224",
}
"""Torchvision's vision transformers, and what timm calls them."""

VIT_NAMES = {
    "class_token": "cls_token",
    "encoder.pos_embedding": "pos_embed",
    "conv_proj.": "patch_embed.proj.",
    "encoder.layers.encoder_layer_": "blocks.",
    "encoder.ln.": "norm.",
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
    "self_attention.in_proj_": "attn.qkv.",
    "self_attention.out_proj.": "attn.proj.",
    "mlp.0.": "mlp.fc1.",
    "mlp.3.": "mlp.fc2.",
}
"""Weights of torchvision's vision transformers, and what timm calls them."""


class TimmTower(NamedTuple):
    """An image tower of timm.

    Attributes:
        architecture: timm's name of it.
        backbone: without its classifier.
    """

    architecture: str
    backbone: nn.Module


def has_twin(architecture: str) -> bool:
    """Whether timm has a model of torchvision, too."""
    return architecture.startswith(RESNETS) or architecture in VITS


def twin(architecture: str, backbone: nn.Module, image_size: int) -> TimmTower:
    """The same tower out of timm.

    Args:
        architecture: torchvision's name of it.
        backbone: without its classifier.
        image_size: pixels; vision transformers are made for it.
    """
    if architecture not in VITS:
        return TimmTower(architecture, backbone)
    import timm

    vit = timm.create_model(VITS[architecture], num_classes=0, img_size=image_size)
    vit.load_state_dict(renamed(backbone.state_dict(), VIT_NAMES))
    return TimmTower(VITS[architecture], vit.eval().requires_grad_(False))


def renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Weights with other words in their names."""
    result = {}
    for name, tensor in state.items():
        for theirs, other in names.items():
            name = name.replace(theirs, other)
        result[name] = tensor
    return result
