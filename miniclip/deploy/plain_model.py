"""A model taken apart into what other libraries have: two towers, two linear layers, a scale.

What they do not have is refused by the setting that asked for it.
"""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from miniclip.errors import UserError
from miniclip.files import read_json
from miniclip.losses import SigLipLoss
from miniclip.models import (
    BagOfTokens,
    HFTextModel,
    LinearProjection,
    NoProjection,
    SeparateProjection,
    TextEncoder,
)
from miniclip.models.attention import FullAttention
from miniclip.models.image_encoder import ImageEncoder
from miniclip.models.projection import Projection
from miniclip.preprocessing import MEAN, STD
from miniclip.pretrained import MiniCLIP
from miniclip.pretrained.parts import node_at

LARGEST_DIFFERENCE = 1e-5
"""By which an element of an embedding may differ from ours."""

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

RESNETS = ("resnet", "resnext", "wide_resnet")
"""Beginnings of the names of torchvision's networks that timm has with the same weights."""


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
        architecture: timm's name of the image tower.
        backbone: the image tower, a copy without its classifier, for images normalized by `mean` and `std`.
        image_proj: from its output into the joint space.
        text_encoder: the text tower, a copy; its `proj` is to be ignored.
        text_proj: from its pooled tokens into the joint space.
        mean, std: per channel, of pixels between 0 and 1.
        logit_bias: what `loss=siglip` learned; None for other losses.
    """

    architecture: str
    backbone: nn.Module
    image_proj: Linear
    text_encoder: TextEncoder | HFTextModel
    text_proj: Linear
    mean: tuple[float, ...]
    std: tuple[float, ...]
    logit_bias: float | None


class Exported(NamedTuple):
    """What came of an export.

    Attributes:
        folder: where it lies.
        image_difference, text_difference: the largest, of an element of an embedding, from ours.
    """

    folder: Path
    image_difference: float
    text_difference: float


def inexpressible(library: str, part: str, reason: str) -> UserError:
    """Error of a part that another library cannot hold.

    Args:
        part: as the user typed it, such as "projection=mlp".
    """
    return UserError(
        f"--format {library} cannot express {part}: {reason}. Use --format onnx, or safetensors, which "
        "works for every model."
    )


def plain_model(model: MiniCLIP, library: str) -> PlainModel:
    """Take a model apart, for a library.

    Raises:
        UserError: when a part is none that other libraries have; names its setting.
    """
    network = copy.deepcopy(model.model).cpu().eval().requires_grad_(False)
    through = _into_joint_space(network.projection, library)
    text_encoder = _text_tower(network.text_encoder, model, library)
    image_encoder = network.image_encoder
    assert isinstance(image_encoder, ImageEncoder)

    loss = network.loss
    return PlainModel(
        _timm_name(model, library),
        image_encoder.backbone,
        through(image_encoder.proj),
        text_encoder,
        through(text_encoder.proj),
        image_encoder.preprocessing.mean,
        image_encoder.preprocessing.std,
        float(loss.logit_bias) if isinstance(loss, SigLipLoss) else None,
    )


def _into_joint_space(projection: Projection, library: str) -> Callable[[nn.Linear], Linear]:
    """Joins a tower's linear layer and the projection into one linear layer."""
    if isinstance(projection, NoProjection):
        return lambda proj: Linear(proj.weight, proj.bias)
    if isinstance(projection, LinearProjection):
        matrix = projection.linear.weight.double()  # (embed_dim, embed_dim)
        return lambda proj: Linear(
            (matrix @ proj.weight.double()).float(), (matrix @ proj.bias.double()).float()
        )
    option = "separate" if isinstance(projection, SeparateProjection) else "mlp"
    raise inexpressible(
        library,
        f"projection={option}",
        "it has no MLP with a skip connection and LayerNorm (projection=linear and none it has)",
    )


def _text_tower(text_encoder: nn.Module, model: MiniCLIP, library: str) -> TextEncoder | HFTextModel:
    if isinstance(text_encoder, BagOfTokens):
        raise inexpressible(library, "encoder/text=bag", "it has no text tower without a transformer")
    assert isinstance(text_encoder, TextEncoder | HFTextModel)
    if isinstance(text_encoder, HFTextModel):
        return text_encoder

    attention = text_encoder.blocks[0].attention
    if not isinstance(attention, FullAttention):
        target = str(node_at(model.bundle.config, "encoder.text.attention")["_target_"])
        option = ATTENTIONS[target.rpartition(".")[2]]
        raise inexpressible(
            library, f"encoder/text/attention={option}", "it has exact attention only (attention=full)"
        )
    if text_encoder.pooling != "cls":
        raise inexpressible(
            library,
            f"encoder.text.pooling={text_encoder.pooling}",
            "it has no transformer that reads a caption both ways and is pooled so (pooling=cls it has)",
        )
    return text_encoder


def _timm_name(model: MiniCLIP, library: str) -> str:
    """Timm's name of an image tower."""
    image = node_at(model.bundle.config, "encoder.image")
    architecture = str(image["architecture"])
    if image["_target_"].endswith(".TimmEncoder") or architecture.startswith(RESNETS):
        return architecture
    raise inexpressible(
        library,
        f"encoder.image.architecture={architecture}",
        "it takes image towers from timm, with which torchvision's share the weights of ResNets only",
    )


def text_name(model: MiniCLIP) -> str:
    """The Hugging Face model of a text tower as the user typed it."""
    return f"encoder.text.name={node_at(model.bundle.config, 'encoder.text')['name']}"


def renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Weights with other words in their names."""
    result = {}
    for name, tensor in state.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        result[name] = tensor
    return result


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
        norm.bias += shift
        if torch.allclose(features() - before, shift.expand_as(before), rtol=1e-2, atol=1e-4):
            return True
        norm.bias -= shift
    return False


def seen_by(plain: PlainModel, pixels: Tensor) -> Tensor:
    """What a backbone sees of images (B, 3, S, S) that MiniCLIP normalized."""
    ours_mean, ours_std, mean, std = (
        torch.tensor(values)[:, None, None] for values in (MEAN, STD, plain.mean, plain.std)
    )
    return (pixels * ours_std + ours_mean - mean) / std


@contextmanager
def export_folder(folder: Path, library: str, names: Iterable[str]) -> Iterator[None]:
    """A folder to export into, made where there is none, without a former export or a failed one.

    Args:
        names: of the files of such an export.

    Raises:
        UserError: when it holds an export in another format, whose files have the same names.
    """
    found = _format_of(folder)
    if found not in (None, library):
        raise UserError(f"{folder} holds an export in the format {found}. Give another folder: -o FOLDER")

    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in names]
    for path in paths:
        path.unlink(missing_ok=True)
    try:
        yield
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):  # not empty
                folder.rmdir()
        raise


def _format_of(folder: Path) -> str | None:
    """The format of the export that a folder holds, or None."""
    if (folder / "onnx.json").exists():
        return "onnx"
    if (folder / "open_clip_config.json").exists():
        return "open_clip"
    if not (folder / "config.json").exists():
        return None
    with suppress(ValueError):
        if read_json(folder / "config.json").get("library") == "miniclip":
            return "safetensors"
    return "transformers"


@contextmanager
def refused_by(library: str) -> Iterator[None]:
    """Whatever another library raises over what was exported is one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the library, to its own developers
            yield
    except UserError:
        raise
    except Exception as error:  # whatever its code raises, the model does not suit it
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(
            f"{library} cannot read what was exported ({reason[:200]}). The export was not kept; --format "
            "safetensors works for every model."
        ) from None


def compared(
    library: str, folder: Path, *, images: tuple[Tensor, Tensor], texts: tuple[Tensor, Tensor]
) -> Exported:
    """Hold another library's features against ours.

    Args:
        images, texts: their features and ours, each (B, embed_dim), of length 1.

    Raises:
        UserError: when they differ by more than rounding.
    """
    of_images, of_texts = (float((theirs - ours).abs().max()) for theirs, ours in (images, texts))
    if not max(of_images, of_texts) <= LARGEST_DIFFERENCE:
        raise UserError(
            f"The features that {library} gives differ from ours by {max(of_images, of_texts):.1e}, more "
            f"than {LARGEST_DIFFERENCE:.0e}. The export was not kept; --format safetensors works for every "
            "model."
        )
    return Exported(folder, of_images, of_texts)
