"""Image towers out of torchvision's classifiers.

torchvision is imported where it is used: it takes as long as torch itself, and a text needs no image tower.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from miniclip.errors import SettingError, UserError
from miniclip.models.image_encoder import HALF, ImageEncoder, width_of
from miniclip.models.small_map_conv import SmallMapConv2d
from miniclip.models.weights import existing_file, fitting_state, read_state
from miniclip.preprocessing import IMAGENET, Preprocessing

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

OLD_DENSENET_KEY = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\..+)$")
"""Published DenseNet weights write `norm.1`, where the module of today has `norm1`."""


class TorchvisionEncoder(ImageEncoder):
    """Any classifier of torchvision whose last layer is linear.

    Args:
        architecture: name of the torchvision model.
        weights: null, a name of torchvision's weights such as "IMAGENET1K_V1", or the path of a state
            dict of the torchvision model. With null the last batch norm of each residual block of a ResNet
            starts at zero (Goyal et al. 2017, section 5.1), which doubles what is learned in the first
            minutes.
        image_size: pixels; vision transformers are made for it.
        encoder_settings: see `ImageEncoder`.

    Raises:
        SettingError: when there is no such model, or `weights` is neither a known name nor a fitting file.
        UserError: when the named weights cannot be downloaded; says where to put the file.
    """

    def __init__(self, *, architecture: str, weights: str | None, image_size: int, **encoder_settings: Any):
        from torchvision import models

        known = models.list_models(module=models)
        if architecture not in known:
            raise SettingError("architecture", architecture, f"must be one of {', '.join(known)}")

        backbone = _torchvision_model(architecture, image_size, from_scratch=weights is None)
        linear_layers = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
        if not linear_layers:
            raise SettingError("architecture", architecture, "ends in no linear layer; choose another")
        classifier = linear_layers[-1]

        preprocessing = IMAGENET
        if weights is not None:
            state = _torchvision_state(backbone, architecture, weights, classifier, image_size)
            backbone.load_state_dict(state)
            preprocessing = _torchvision_preprocessing(architecture, weights)

        parent, _, name = classifier.rpartition(".")
        setattr(backbone.get_submodule(parent), name, nn.Identity())
        SmallMapConv2d.replace_in(backbone)
        width = width_of(backbone, architecture, image_size)
        super().__init__(backbone, width=width, preprocessing=preprocessing, **encoder_settings)


def _torchvision_model(architecture: str, image_size: int, *, from_scratch: bool) -> nn.Module:
    from torchvision.models import get_model

    settings: dict[str, Any] = {}
    if architecture.startswith(("resnet", "resnext", "wide_resnet")):
        settings["zero_init_residual"] = from_scratch
    elif architecture.startswith("vit_"):
        settings["image_size"] = image_size
    elif architecture in ("googlenet", "inception_v3"):
        settings |= {"aux_logits": False, "init_weights": True}

    try:
        return get_model(architecture, weights=None, **settings)
    except NotImplementedError:  # some cannot be made on a device without memory
        with torch.device("cpu"):
            return get_model(architecture, weights=None, **settings)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise SettingError("image_size", image_size, f"does not suit {architecture} ({error})") from None


def _torchvision_state(
    backbone: nn.Module, architecture: str, weights: str, classifier: str, image_size: int
) -> dict[str, Tensor]:
    from torchvision.models import get_model_weights
    from torchvision.models.vision_transformer import interpolate_embeddings

    known = get_model_weights(architecture)
    if weights in known.__members__:
        state, source = _downloaded(known[weights], weights), weights
    else:
        path = existing_file(weights, ", ".join(["null", *known.__members__]))
        state, source = read_state(path), str(path)

    # what torchvision does itself when it loads its weights
    state = {OLD_DENSENET_KEY.sub(r"\1\2", key): value for key, value in state.items()}
    state = {key: value for key, value in state.items() if not key.startswith(("aux", "AuxLogits"))}
    if architecture.startswith("vit_") and "encoder.pos_embedding" in state:
        state = dict(interpolate_embeddings(image_size, backbone.patch_size, state))

    return fitting_state(state, source, backbone, architecture, classifier)


def _torchvision_preprocessing(architecture: str, weights: str) -> Preprocessing:
    """That of the named weights; of a file, that of the architecture's default weights."""
    from torchvision.models import get_model_weights

    known = get_model_weights(architecture)
    named: Any = known[weights] if weights in known.__members__ else known["DEFAULT"]

    transforms = named.transforms()
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    if architecture in ("googlenet", "inception_v3"):  # their `transform_input`
        mean = std = HALF
    fraction = transforms.crop_size[0] / transforms.resize_size[0]
    return Preprocessing(mean, std, transforms.interpolation.value, fraction)


def _downloaded(weights: "WeightsEnum", name: str) -> dict[str, Tensor]:
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise UserError(
            f"encoder.image.weights={name}: {weights.url} cannot be downloaded ({error}). Put the "
            f"file into {folder}, or give its path: encoder.image.weights=PATH"
        ) from None
