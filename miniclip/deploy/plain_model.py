"""A model taken apart into what other libraries have: two towers, two linear layers, a scale.

What they do not have is refused by the setting that asked for it.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from miniclip.deploy.timm_tower import TimmTower, has_twin, twin
from miniclip.errors import UserError
from miniclip.losses import SigLipLoss
from miniclip.models import (
    CLIP,
    BagOfTokens,
    HFTextModel,
    LinearProjection,
    NoProjection,
    SeparateProjection,
    TextEncoder,
    TimmEncoder,
)
from miniclip.models.attention import FullAttention
from miniclip.models.image_encoder import ImageEncoder
from miniclip.models.projection import Projection
from miniclip.preprocessing import MEAN, STD
from miniclip.pretrained import MiniCLIP
from miniclip.pretrained.parts import Config, node_at

ATTENTIONS = {
    "BigBirdAttention": "bigbird",
    "FusedLinformerAttention": "linformer_fused",
    "LinformerAttention": "linformer",
    "NystromAttention": "nystrom",
    "PerformerAttention": "performer",
    "ReformerAttention": "reformer",
    "linformer_attention": "linformer",
}
"""What `encoder/text/attention=` is for each class that only MiniCLIP has."""


class Linear(NamedTuple):
    """A linear layer into the joint space: `x @ weight.T + bias`.

    Attributes:
        weight: (embed_dim, width).
        bias: (embed_dim,).
    """

    weight: Tensor
    bias: Tensor


class PlainModel(NamedTuple):
    """What a model consists of, in other libraries' words.

    Attributes:
        image: the image tower, a copy, for images normalized by `mean` and `std`.
        image_proj: from its output into the joint space.
        text_encoder: the text tower, a copy; its `proj` is to be ignored.
        text_proj: from its pooled tokens into the joint space.
        mean, std: per channel, of pixels between 0 and 1.
        logit_bias: what `loss=siglip` learned; None for other losses.
    """

    image: TimmTower
    image_proj: Linear
    text_encoder: TextEncoder | HFTextModel
    text_proj: Linear
    mean: tuple[float, ...]
    std: tuple[float, ...]
    logit_bias: float | None


class Obstacle(NamedTuple):
    """A part that another library does not have.

    Attributes:
        part: as the user typed it, such as "projection=mlp".
        reason: what the library lacks.
    """

    part: str
    reason: str


def inexpressible(library: str, *obstacles: Obstacle) -> UserError:
    """Error of a model that another library cannot hold."""
    parts = ", ".join(f"{part} ({reason})" for part, reason in obstacles)
    return UserError(
        f"--format {library} cannot express {parts}. Use --format onnx, or safetensors, which works for "
        "every model."
    )


def check_expressible(model: MiniCLIP, library: str, *obstacles: Obstacle) -> None:
    """Hold the parts of a model against those that other libraries have.

    Args:
        obstacles: those that are known already.

    Raises:
        UserError: when a part is none of them; names the settings of all such parts.
    """
    found = [*obstacles, *_obstacles(model.model, model.bundle.config)]
    if found:
        raise inexpressible(library, *found)


def plain_model(model: MiniCLIP) -> PlainModel:
    """Take a model apart that `check_expressible` has passed; its own weights stay as they are."""
    network = copy.deepcopy(model.model).cpu().eval().requires_grad_(False)
    image_encoder, text_encoder, loss = network.image_encoder, network.text_encoder, network.loss
    assert isinstance(image_encoder, ImageEncoder) and isinstance(text_encoder, TextEncoder | HFTextModel)

    return PlainModel(
        _timm_tower(image_encoder, model),
        _into_joint_space(image_encoder.proj, network.projection),
        text_encoder,
        _into_joint_space(text_encoder.proj, network.projection),
        image_encoder.preprocessing.mean,
        image_encoder.preprocessing.std,
        float(loss.logit_bias) if isinstance(loss, SigLipLoss) else None,
    )


def _timm_tower(image_encoder: ImageEncoder, model: MiniCLIP) -> TimmTower:
    architecture = str(node_at(model.bundle.config, "encoder.image")["architecture"])
    if isinstance(image_encoder, TimmEncoder):
        return TimmTower(architecture, image_encoder.backbone)
    return twin(architecture, image_encoder.backbone, model.preprocess.image_size)


def _obstacles(network: CLIP, config: Config) -> Iterator[Obstacle]:
    """The parts that no other library has."""
    if not isinstance(network.projection, NoProjection | LinearProjection):
        option = "separate" if isinstance(network.projection, SeparateProjection) else "mlp"
        yield Obstacle(f"projection={option}", "it has projection=linear and projection=none")

    image = node_at(config, "encoder.image")
    architecture = str(image["architecture"])
    if not image["_target_"].endswith(".TimmEncoder") and not has_twin(architecture):
        yield Obstacle(
            f"encoder.image.architecture={architecture}",
            "it has timm's towers, and of torchvision's the ResNets and vision transformers",
        )

    if isinstance(network.text_encoder, BagOfTokens):
        yield Obstacle("encoder/text=bag", "it has transformers only")
    elif isinstance(network.text_encoder, TextEncoder):
        yield from _obstacles_of_transformer(network.text_encoder, config)


def _obstacles_of_transformer(encoder: TextEncoder, config: Config) -> Iterator[Obstacle]:
    if not isinstance(encoder.blocks[0].attention, FullAttention):
        target = str(node_at(config, "encoder.text.attention")["_target_"])
        option = ATTENTIONS[target.rpartition(".")[2]]
        yield Obstacle(f"encoder/text/attention={option}", "it has attention=full")
    if encoder.pooling != "cls":
        yield Obstacle(f"encoder.text.pooling={encoder.pooling}", "of such transformers it has pooling=cls")


def _into_joint_space(proj: nn.Linear, projection: Projection) -> Linear:
    """A tower's linear layer and the projection as one linear layer."""
    if not isinstance(projection, LinearProjection):
        return Linear(proj.weight, proj.bias)
    matrix = projection.linear.weight.double()  # (embed_dim, embed_dim)
    return Linear((matrix @ proj.weight.double()).float(), (matrix @ proj.bias.double()).float())


def image_name(model: MiniCLIP) -> str:
    """The architecture of the image tower as the user typed it."""
    return f"encoder.image.architecture={node_at(model.bundle.config, 'encoder.image')['architecture']}"


def text_name(model: MiniCLIP) -> str:
    """The Hugging Face model of a text tower as the user typed it."""
    return f"encoder.text.name={node_at(model.bundle.config, 'encoder.text')['name']}"


def num_heads(encoder: TextEncoder) -> int:
    """Attention heads per block of a text tower with exact attention."""
    block: Any = encoder.blocks[0]
    return int(block.attention.num_heads)


@torch.no_grad()
def moved_into_norm(proj: Linear, tower: nn.Module, features: Callable[[], Tensor]) -> bool:
    """Move a linear layer's bias into the last LayerNorm in front of it, for a library that has none.

    Args:
        tower: with the LayerNorm, whose bias is altered.
        features: `-> (B, width)`, what the tower gives of some inputs, and the linear layer takes.

    Returns:
        whether it could: not where no LayerNorm shifts the features, or embed_dim is more than the width.
    """
    # where embed_dim is at most the width, weight @ shift = bias has an exact solution
    shift = (torch.linalg.pinv(proj.weight.double()) @ proj.bias.double()).float()  # (width,)
    if not torch.allclose(proj.weight @ shift, proj.bias, atol=1e-5):
        return False

    before = features()
    norms = [part for part in tower.modules() if isinstance(part, nn.LayerNorm) and part.bias is not None]
    for norm in reversed(norms):
        if norm.bias.shape != shift.shape:
            continue
        norm.bias.add_(shift)
        if torch.allclose(features() - before, shift.expand_as(before), rtol=1e-2, atol=1e-4):
            return True
        norm.bias.sub_(shift)
    return False


def seen_by(plain: PlainModel, pixels: Tensor) -> Tensor:
    """What a backbone sees of images (B, 3, S, S) that MiniCLIP normalized."""
    ours_mean, ours_std, mean, std = (
        torch.tensor(values)[:, None, None] for values in (MEAN, STD, plain.mean, plain.std)
    )
    return (pixels * ours_std + ours_mean - mean) / std
