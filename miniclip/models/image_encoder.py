"""Image towers: torchvision's and timm's classifiers without their classifier."""

from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from miniclip.errors import SettingError, UserError
from miniclip.models.convolution import SmallMapConv2d

Trainable = Literal["all", "last_stage", "none"]

PILES = ("features", "encoder", "layers", "blocks", "stages", "trunk", "backbone")
"""Names under which networks keep their stages."""


class ImageEncoder(nn.Module):
    """A network without its classifier, and a linear layer into the joint space.

    `images (B, 3, H, W) -> (B, embed_dim)`

    Args:
        backbone: `(B, 3, H, W) -> (B, width)`.
        width: length of the backbone's output.
        embed_dim: length of the output.
        trainable: what of the backbone learns: "all" of it, its "last_stage", or "none". The linear layer
            always does.
        frozen_statistics: hold the running statistics of batch norms still and normalise by them, also in
            training. Where nothing of the backbone learns it is so in any case.
        lr_factor: the backbone's learning rate over that of everything else.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        width: int,
        embed_dim: int,
        trainable: Trainable,
        frozen_statistics: bool,
        lr_factor: float,
    ):
        super().__init__()
        if embed_dim < 1:
            raise SettingError("embed_dim", embed_dim, "must be at least 1")
        if not lr_factor > 0:
            raise SettingError(
                "lr_factor", lr_factor, "must be above 0; trainable=none freezes the backbone"
            )
        if trainable not in ("all", "last_stage", "none"):
            raise SettingError("trainable", trainable, "must be all, last_stage or none")
        self.backbone = backbone
        self.proj = nn.Linear(width, embed_dim)
        self.frozen_statistics = frozen_statistics or trainable == "none"
        if trainable != "all":
            self.backbone.requires_grad_(False)
        if trainable == "last_stage":
            for stage in _last_stage(backbone):
                stage.requires_grad_(True)
        self.lr_factors = {"backbone": lr_factor}

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(self.backbone(images))

    def train(self, mode: bool = True) -> "ImageEncoder":
        """As always, but for frozen statistics."""
        super().train(mode)
        if self.frozen_statistics:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase):
                    module.eval()
        return self


class TorchvisionEncoder(ImageEncoder):
    """Any classifier of torchvision whose last layer is linear.

    Args:
        architecture: name of the torchvision model.
        weights: null, a name of torchvision's weights such as "IMAGENET1K_V1", or the path of a state
            dict of the torchvision model. With null the last batch norm of each residual block of a ResNet
            starts at zero (Goyal et al. 2017, section 5.1), which doubles what is learnt in the first
            minutes.
        image_size: pixels; vision transformers are made for it.
        encoder_settings: see `ImageEncoder`.

    Raises:
        SettingError: when there is no such model, or `weights` is neither a known name nor a fitting file.
        UserError: when the named weights cannot be downloaded; says where to put the file.
    """

    def __init__(self, *, architecture: str, weights: str | None, image_size: int, **encoder_settings: Any):
        known = torchvision.models.list_models(module=torchvision.models)
        if architecture not in known:
            raise SettingError("architecture", architecture, f"must be one of {', '.join(known)}")
        backbone = _torchvision_model(architecture, image_size, from_scratch=weights is None)
        layers = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
        if not layers:
            raise SettingError("architecture", architecture, "ends in no linear layer; choose another")
        classifier = layers[-1]
        if weights is not None:
            state = _torchvision_state(backbone, architecture, weights, classifier)
            backbone.load_state_dict(state)
        width: int = backbone.get_submodule(classifier).in_features  # type: ignore[assignment]
        parent, _, name = classifier.rpartition(".")
        setattr(backbone.get_submodule(parent), name, nn.Identity())
        SmallMapConv2d.replace_in(backbone)
        super().__init__(backbone, width=width, **encoder_settings)


class TimmEncoder(ImageEncoder):
    """Any model of the package timm.

    Args:
        architecture: timm's name of it.
        weights: null, "pretrained" for those that timm fetches, or the path of a state dict.
        image_size: pixels; models of a fixed size are made for it.
        encoder_settings: see `ImageEncoder`.

    Raises:
        SettingError: when there is no such model, or the file does not fit.
        UserError: when timm is missing, or the weights cannot be fetched.
    """

    def __init__(self, *, architecture: str, weights: str | None, image_size: int, **encoder_settings: Any):
        try:
            import timm
        except ImportError:
            raise UserError('encoder/image=timm needs timm: pip install -e ".[timm]"') from None
        if not timm.is_model(architecture):
            near = ", ".join(timm.list_models(f"*{architecture[:6]}*")[:5])
            raise SettingError("architecture", architecture, f"is no model of timm; near are: {near}")
        settings: dict[str, Any] = {"num_classes": 0, "pretrained": weights == "pretrained"}
        backbone: Any
        try:
            try:
                backbone = timm.create_model(architecture, img_size=image_size, **settings)
            except TypeError:  # of any size
                backbone = timm.create_model(architecture, **settings)
        except (OSError, RuntimeError) as error:
            if weights != "pretrained":
                raise
            raise UserError(
                f"encoder.image.weights=pretrained: those of {architecture} cannot be fetched "
                f"({str(error).splitlines()[0]}). Download them elsewhere: encoder.image.weights=PATH"
            ) from None
        if weights is not None and weights != "pretrained":
            path = _existing(weights, "null, pretrained")
            classifier = str(backbone.default_cfg.get("classifier", "head"))
            backbone.load_state_dict(_state_of(path, backbone, architecture, classifier))
        SmallMapConv2d.replace_in(backbone)
        super().__init__(backbone, width=backbone.num_features, **encoder_settings)


def _torchvision_model(architecture: str, image_size: int, *, from_scratch: bool) -> nn.Module:
    settings: dict[str, Any] = {}
    if architecture.startswith(("resnet", "resnext", "wide_resnet")):
        settings["zero_init_residual"] = from_scratch
    elif architecture.startswith("vit_"):
        settings["image_size"] = image_size
    elif architecture in ("googlenet", "inception_v3"):
        settings |= {"aux_logits": False, "init_weights": True}
    try:
        return torchvision.models.get_model(architecture, weights=None, **settings)
    except NotImplementedError:  # some cannot be made on a device without memory
        with torch.device("cpu"):
            return torchvision.models.get_model(architecture, weights=None, **settings)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise SettingError("image_size", image_size, f"does not suit {architecture} ({error})") from None


def _last_stage(backbone: nn.Module) -> list[nn.Module]:
    """The last part of a network that has weights, and whatever follows the pile it is on."""
    parts = [
        (name, part) for name, part in backbone.named_children() if any(True for _ in part.parameters())
    ]
    for place, (name, part) in enumerate(parts):
        if name in PILES:
            return [*_last_stage(part), *(after for _, after in parts[place + 1 :])]
    return [parts[-1][1]]


def _torchvision_state(
    backbone: nn.Module, architecture: str, weights: str, classifier: str
) -> dict[str, Tensor]:
    known = torchvision.models.get_model_weights(architecture)
    if weights in known.__members__:
        return _downloaded(known[weights], weights)
    path = _existing(weights, ", ".join(["null", *known.__members__]))
    return _state_of(path, backbone, architecture, classifier)


def _existing(weights: str, names: str) -> Path:
    path = Path(weights).expanduser()
    if not path.is_file():
        raise SettingError("weights", weights, f"is no file and none of {names}")
    return path


def _state_of(path: Path, backbone: nn.Module, architecture: str, classifier: str) -> dict[str, Tensor]:
    """A state dict from a file; with or without the classifier, which is replaced in any case."""
    expected = backbone.state_dict()
    state = {
        key: value
        for key, value in torch.load(path, map_location="cpu", weights_only=True).items()
        if not key.startswith(f"{classifier}.")
    }
    state |= {key: value for key, value in expected.items() if key.startswith(f"{classifier}.")}
    wrong = [
        key
        for key in expected.keys() | state.keys()
        if key not in expected or key not in state or expected[key].shape != state[key].shape
    ]
    if wrong:
        raise SettingError(
            "weights", str(path), f"is not a state dict of {architecture}; it differs in {min(wrong)}"
        )
    return state


def _downloaded(weights: torchvision.models.WeightsEnum, name: str) -> dict[str, Tensor]:
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise UserError(
            f"encoder.image.weights={name}: {weights.url} cannot be downloaded ({error}). Put the "
            f"file into {folder}, or give its path: encoder.image.weights=PATH"
        ) from None
