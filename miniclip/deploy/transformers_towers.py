"""The two towers of a model as transformers has them.

Its text towers give tanh(linear(first token)): on numbers as small as `SMALL` makes them, tanh is the
identity to the last digits of float32. The linear layers behind its towers have no bias: that of the images
is carried by the tower's last LayerNorm, or in a ResNet by a channel that is always 1.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from miniclip.deploy.plain_model import (
    Obstacle,
    PlainModel,
    image_name,
    inexpressible,
    moved_into_norm,
    num_heads,
    text_name,
)
from miniclip.deploy.timm_tower import renamed
from miniclip.models import HFTextModel, TextEncoder
from miniclip.pretrained import MiniCLIP

LIBRARY = "transformers"

SMALL = 2.0**-13
"""Factor on what tanh sees, undone behind it; a power of two changes no digit."""

BLOCK_NAMES = {
    "attention_norm.": "attention.ln.",
    "mlp_norm.": "ln.",
    "attention.query.": "attention.self.query.",
    "attention.key.": "attention.self.key.",
    "attention.value.": "attention.self.value.",
    "attention.out.": "attention.output.dense.",
    "mlp.0.": "intermediate.dense.",
    "mlp.2.": "output.dense.",
}
"""Parts of a block of the text tower, and what MegatronBert calls them."""

State = dict[str, Tensor]
"""Weights by their names in transformers."""

Settings = dict[str, Any]
"""What timm is told to make a model."""


class Tower(NamedTuple):
    """One side of a VisionTextDualEncoder.

    Attributes:
        config: transformers' own.
        state: weights by their names in the tower.
        proj: weight of the linear layer into the joint space, (embed_dim, width).
    """

    config: Any
    state: State
    proj: Tensor


def image_tower(plain: PlainModel, model: MiniCLIP, pixels: Tensor) -> Tower:
    """A tower of timm that carries the bias which the linear layer behind it does not have.

    Args:
        pixels: two images as the tower sees them, (2, 3, S, S).

    Raises:
        UserError: when nothing in the tower can carry it.
    """
    weight = plain.image_proj.weight
    if moved_into_norm(plain.image_proj, plain.image.backbone, lambda: plain.image.backbone(pixels)):
        settings = _size_setting(plain.image.architecture, model.preprocess.image_size)
        return _timm_tower(plain.image.architecture, settings, plain.image.backbone, weight)

    wider = _resnet_with_constant(plain, pixels)
    if wider is None:
        raise inexpressible(
            LIBRARY,
            Obstacle(
                image_name(model),
                "its linear layer has no bias, and nothing in this tower can carry it: that takes a last "
                f"LayerNorm of at least embed_dim={len(weight)} numbers, or a ResNet",
            ),
        )
    settings, resnet, num_more = wider
    # the new channels are 0, ..., 0, 1
    zeros = weight.new_zeros(len(weight), num_more - 1)
    proj = torch.cat([weight, zeros, plain.image_proj.bias[:, None]], dim=1)  # (embed_dim, width)
    return _timm_tower(plain.image.architecture, settings, resnet, proj)


def _timm_tower(architecture: str, settings: Settings, backbone: nn.Module, proj: Tensor) -> Tower:
    from transformers import TimmWrapperConfig

    # hidden_size is what the dual encoder asks of every tower
    config: Any = {"model_args": settings or None, "hidden_size": proj.shape[1]}
    state = {f"timm_model.{name}": tensor for name, tensor in backbone.state_dict().items()}
    return Tower(TimmWrapperConfig(architecture=architecture, **config), state, proj)


def _size_setting(architecture: str, image_size: int) -> Settings:
    """What timm is told to make a model for images of a size; nothing where it takes any."""
    import timm

    settings: Settings = {"img_size": image_size}
    try:
        with torch.device("meta"):
            timm.create_model(architecture, num_classes=0, **settings)
    except TypeError:
        return {}
    return settings


@torch.no_grad()
def _resnet_with_constant(plain: PlainModel, pixels: Tensor) -> tuple[Settings, nn.Module, int] | None:
    """A ResNet with some more channels in its last stage, the last of which is always 1.

    Returns:
        what timm is told to make it, the network, and how many features it has more; None for other towers.
    """
    import timm
    from timm.models.resnet import ResNet

    with torch.device("meta"):
        known: Any = timm.create_model(plain.image.architecture, num_classes=0)
    if not isinstance(known, ResNet):
        return None
    stages: list[Any] = [known.layer1, known.layer2, known.layer3, known.layer4]
    channels = [_width(stage[-1]) // stage[-1].expansion for stage in stages]
    channels[-1] += 1
    settings: Settings = {"channels": channels}

    wider: Any = timm.create_model(plain.image.architecture, num_classes=0, **settings).eval()
    _copy_into(wider, plain.image.backbone)
    last_block = wider.layer4[-1]
    _last_norm(last_block).bias[-1] = 1
    if not torch.allclose(wider(pixels)[:, -1], torch.ones(len(pixels))):
        return None
    return settings, wider, _width(last_block) - plain.image_proj.weight.shape[1]


def _last_norm(block: Any) -> Any:
    """The last batch norm of a residual block, in front of the sum."""
    return block.bn3 if hasattr(block, "bn3") else block.bn2


def _width(block: Any) -> int:
    return int(_last_norm(block).num_features)


def _copy_into(wider: nn.Module, backbone: nn.Module) -> None:
    """The weights of a network in one with more channels, all of which are 0."""
    ours = backbone.state_dict()
    for name, tensor in wider.state_dict().items():
        if not name.endswith("running_var"):
            tensor.zero_()
        tensor[tuple(slice(size) for size in ours[name].shape)] = ours[name]


def text_tower(plain: PlainModel, model: MiniCLIP) -> Tower:
    encoder = plain.text_encoder
    config, state = (
        _hf_tower(encoder, model) if isinstance(encoder, HFTextModel) else _transformer(encoder, model)
    )
    weight, bias = plain.text_proj
    embed_dim, width = weight.shape
    if embed_dim > width:
        raise inexpressible(
            LIBRARY,
            Obstacle(
                f"embed_dim={embed_dim}", f"it is at most the width of the text tower, which is {width}"
            ),
        )

    # tanh is left between two linear layers: all of ours goes in front of it
    dense, bias_of_dense = torch.zeros(width, width), torch.zeros(width)
    dense[:embed_dim], bias_of_dense[:embed_dim] = SMALL * weight, SMALL * bias
    pooler = {"pooler.dense.weight": dense, "pooler.dense.bias": bias_of_dense}
    return Tower(config, state | pooler, torch.eye(embed_dim, width) / SMALL)


def _transformer(encoder: TextEncoder, model: MiniCLIP) -> tuple[Any, State]:
    """MiniCLIP's own text tower as a MegatronBert, the pre-norm transformer of transformers."""
    from transformers import MegatronBertConfig

    width = encoder.proj.in_features
    config = MegatronBertConfig(
        vocab_size=encoder.token_embedding.num_embeddings,
        hidden_size=width,
        num_hidden_layers=len(encoder.blocks),
        num_attention_heads=num_heads(encoder),
        intermediate_size=4 * width,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=len(encoder.position_embedding),
        type_vocab_size=1,
        layer_norm_eps=encoder.norm.eps,
        pad_token_id=model.tokenizer.backend.token_to_id(model.tokenizer.pad_token),
    )
    state = {
        "embeddings.word_embeddings.weight": encoder.token_embedding.weight,
        "embeddings.position_embeddings.weight": encoder.position_embedding,
        "embeddings.token_type_embeddings.weight": torch.zeros(1, width),
        "encoder.ln.weight": encoder.norm.weight,
        "encoder.ln.bias": encoder.norm.bias,
    }
    blocks = renamed(_with_heads_apart(encoder.blocks.state_dict()), BLOCK_NAMES)
    return config, state | {f"encoder.layer.{name}": tensor for name, tensor in blocks.items()}


def _with_heads_apart(state: State) -> State:
    """The weights with queries, keys and values in tensors of their own."""
    result = {}
    for name, tensor in state.items():
        if ".qkv." not in name:
            result[name] = tensor
            continue
        for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
            result[name.replace(".qkv.", f".{part}.")] = rows
    return result


def _hf_tower(encoder: HFTextModel, model: MiniCLIP) -> tuple[Any, State]:
    """A Hugging Face model with its pooler, which MiniCLIP leaves out."""
    from transformers import AutoModel

    if encoder.pooling != "cls":
        raise inexpressible(
            LIBRARY, Obstacle(f"encoder.text.pooling={encoder.pooling}", "it has pooling=cls only")
        )
    config = type(encoder.model.config).from_dict(encoder.model.config.to_dict())
    with torch.device("meta"):
        pooler: Any = getattr(AutoModel.from_config(config), "pooler", None)
    if not isinstance(getattr(pooler, "activation", None), nn.Tanh):
        kind = encoder.config["model_type"]
        raise inexpressible(
            LIBRARY, Obstacle(text_name(model), f"its kind, {kind}, has no pooler over the first token")
        )
    return config, encoder.model.state_dict()
