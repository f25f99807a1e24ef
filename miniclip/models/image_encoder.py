"""Image towers: torchvision's and timm's classifiers without their classifier."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from miniclip.errors import SettingError, UserError
from miniclip.models.small_map_conv import SmallMapConv2d
from miniclip.preprocessing import MEAN, STD, Preprocessing

Trainable = Literal["all", "last_stage", "none"]

STAGES = (
    "features",
    "encoder",
    "layers",
    "blocks",
    "stages",
    "levels",
    "trunk",
    "trunk_output",
    "backbone",
)
"""Names under which networks keep their stages."""

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

HALF = (0.5, 0.5, 0.5)

OLD_DENSENET_KEY = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\..+)$")
"""Published DenseNet weights write `norm.1`, where the module of today has `norm1`."""


IMAGENET = Preprocessing()
"""What images look like that no weights ask to be otherwise."""


class ImageEncoder(nn.Module):
    """A network without its classifier, and a linear layer into the joint space.

    `images (B, 3, H, W) -> (B, embed_dim)`

    Args:
        backbone: `(B, 3, H, W) -> (B, width)`.
        width: length of the backbone's output.
        embed_dim: length of the output.
        trainable: what of the backbone learns: "all" of it, its "last_stage", or "none". The linear layer
            always does. What does not learn runs as in evaluation: without dropout and stochastic depth,
            and with the running statistics of batch norm.
        freeze_batch_norm_stats: hold the running statistics of batch norms still and normalize by them,
            also in training, in the part that learns as well.
        lr_factor: the backbone's learning rate over that of everything else.
        preprocessing: of the images that the backbone's weights were trained with; those that come in are
            normalized to it.
    """

    pixel_factor: Tensor | None
    pixel_shift: Tensor | None

    def __init__(
        self,
        backbone: nn.Module,
        *,
        width: int,
        embed_dim: int,
        trainable: Trainable,
        freeze_batch_norm_stats: bool,
        lr_factor: float,
        preprocessing: Preprocessing = IMAGENET,
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
        self.freeze_batch_norm_stats = freeze_batch_norm_stats
        # a list, so that the stages are not registered twice
        self._learning: list[nn.Module] = [backbone] if trainable == "all" else []
        if trainable != "all":
            backbone.requires_grad_(False)
        if trainable == "last_stage":
            self._learning = _last_stage(backbone)
            for part in self._learning:
                part.requires_grad_(True)
        self.lr_factors = {"backbone": lr_factor}
        self.preprocessing = preprocessing
        self.normalize_to(preprocessing.mean, preprocessing.std)

    def normalize_to(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Let the backbone see images of another mean and standard deviation than `miniclip.data`'s.

        Args:
            mean, std: per channel, of pixels between 0 and 1.
        """
        self.preprocessing = self.preprocessing._replace(mean=tuple(mean), std=tuple(std))
        factor = shift = None
        if (tuple(mean), tuple(std)) != (MEAN, STD):
            mean_in, std_in, mean_out, std_out = (torch.tensor(v) for v in (MEAN, STD, mean, std))
            # (x - mean_out) / std_out, where images are (x - mean_in) / std_in; each (3, 1, 1)
            factor = (std_in / std_out)[:, None, None].to(self.proj.weight.device)
            shift = ((mean_in - mean_out) / std_out)[:, None, None].to(self.proj.weight.device)
        self.register_buffer("pixel_factor", factor, persistent=False)
        self.register_buffer("pixel_shift", shift, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if self.pixel_factor is not None and self.pixel_shift is not None:
            images = torch.addcmul(self.pixel_shift, images, self.pixel_factor)
        return self.proj(self.backbone(images))

    def train(self, mode: bool = True) -> "ImageEncoder":
        """As always, but what does not learn stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        for part in self._learning:
            part.train(mode)
        if self.freeze_batch_norm_stats:
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
        preprocessing = IMAGENET
        if weights is not None:
            state = _torchvision_state(backbone, architecture, weights, classifier, image_size)
            backbone.load_state_dict(state)
            preprocessing = _torchvision_preprocessing(architecture, weights)
        parent, _, name = classifier.rpartition(".")
        setattr(backbone.get_submodule(parent), name, nn.Identity())
        SmallMapConv2d.replace_in(backbone)
        width = _width_of(backbone, architecture, image_size)
        super().__init__(backbone, width=width, preprocessing=preprocessing, **encoder_settings)


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
            state = _read_state(path)
            backbone.load_state_dict(_fitting(state, path, backbone, architecture, classifier))
        SmallMapConv2d.replace_in(backbone)
        super().__init__(
            backbone,
            width=_width_of(backbone, architecture, image_size),
            preprocessing=IMAGENET if weights is None else _timm_preprocessing(backbone),
            **encoder_settings,
        )


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


def preprocessing_of(image_encoder: nn.Module) -> Preprocessing:
    """What an image tower's weights were trained with; of a tower that does not say, `IMAGENET`."""
    return image_encoder.preprocessing if isinstance(image_encoder, ImageEncoder) else IMAGENET


def adopt_preprocessing(image_encoder: nn.Module, seen: dict[str, Any]) -> None:
    """Normalize images as those were that a checkpoint's weights were trained with."""
    if isinstance(image_encoder, ImageEncoder):
        image_encoder.normalize_to(seen["mean"], seen["std"])


def _width_of(backbone: nn.Module, architecture: str, image_size: int) -> int:
    """Length of the vectors that a backbone gives, found by asking it: heads can be wider than features."""
    device = next(backbone.parameters()).device
    training = backbone.training
    try:
        with torch.no_grad(), device:
            vectors = backbone.eval()(torch.zeros(1, 3, image_size, image_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise SettingError("image_size", image_size, f"does not suit {architecture} ({reason})") from None
    backbone.train(training)
    if vectors.ndim != 2:
        raise SettingError("architecture", architecture, "gives no vector per image; choose another")
    return vectors.shape[1]


def _last_stage(backbone: nn.Module) -> list[nn.Module]:
    """The last stage of a network, and whatever with weights follows it.

    A model of timm says where its feature maps end: the last stage is what follows the last but one of
    them. Of others it goes by the names that networks give their stages.

    Raises:
        SettingError: when a model of timm says neither.
    """
    ends = _ends_of_stages(backbone)
    if ends:
        before, last = ends
        # a part of several feature maps, of which it makes all sizes at a time, is one stage
        own = [backbone.get_submodule(last)] if before == last else []
        return [*own, *_behind(backbone, before)]

    if hasattr(backbone, "feature_info") and not any(n in STAGES for n, _ in backbone.named_children()):
        allowed = "is not known of this architecture; choose all or none"
        raise SettingError("trainable", "last_stage", allowed)
    return _last_stage_by_name(backbone)


def _ends_of_stages(backbone: nn.Module) -> list[str]:
    """Names of the parts in which a model of timm says that its last two feature maps end, or none."""
    info: Any = getattr(backbone, "feature_info", None) or []
    ends = [entry["module"] for entry in info][-2:]
    known = {name for name, _ in backbone.named_modules()}
    return ends if len(ends) == 2 and known.issuperset(ends) else []


def _behind(backbone: nn.Module, place: str) -> list[nn.Module]:
    """What has weights and stands behind a part, on its own level or further out."""
    found: list[nn.Module] = []
    while place:
        place, _, name = place.rpartition(".")
        siblings = list(backbone.get_submodule(place).named_children())
        names = [own for own, _ in siblings]
        found += [part for _, part in siblings[names.index(name) + 1 :] if _has_weights(part)]
    return found


def _last_stage_by_name(backbone: nn.Module) -> list[nn.Module]:
    """The last stage by the names that networks keep their stages under.

    Behind the last stage single layers may follow, such as a norm, on the same level or further out.
    """
    parts = [(name, part) for name, part in backbone.named_children() if _has_weights(part)]
    for place, (name, part) in enumerate(parts):
        if name in STAGES:
            return [*_last_stage_by_name(part), *(after for _, after in parts[place + 1 :])]

    modules = [part for _, part in parts]
    has_blocks = any(_is_block(part) for part in modules)
    stage: list[nn.Module] = []
    for part in reversed(modules):
        stage.insert(0, part)
        if _is_block(part) if has_blocks else not isinstance(part, NORMS):
            break
    return stage


def _has_weights(part: nn.Module) -> bool:
    return any(True for _ in part.parameters())


def _is_block(part: nn.Module) -> bool:
    """Whether it is made of modules that are made of modules; a convolution with its norm is a layer."""
    return any(True for child in part.children() for _ in child.children())


def _torchvision_state(
    backbone: nn.Module, architecture: str, weights: str, classifier: str, image_size: int
) -> dict[str, Tensor]:
    known = torchvision.models.get_model_weights(architecture)
    if weights in known.__members__:
        state, source = _downloaded(known[weights], weights), weights
    else:
        path = _existing(weights, ", ".join(["null", *known.__members__]))
        state, source = _read_state(path), str(path)

    # what torchvision does itself when it loads its weights
    state = {OLD_DENSENET_KEY.sub(r"\1\2", key): value for key, value in state.items()}
    state = {key: value for key, value in state.items() if not key.startswith(("aux", "AuxLogits"))}
    if architecture.startswith("vit_") and "encoder.pos_embedding" in state:
        state = dict(interpolate_embeddings(image_size, backbone.patch_size, state))
    return _fitting(state, source, backbone, architecture, classifier)


def _torchvision_preprocessing(architecture: str, weights: str) -> Preprocessing:
    """That of the named weights; of a file, that of the architecture's default weights."""
    known = torchvision.models.get_model_weights(architecture)
    named: Any = known[weights] if weights in known.__members__ else known["DEFAULT"]
    transforms = named.transforms()
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    if architecture in ("googlenet", "inception_v3"):  # their `transform_input`
        mean = std = HALF
    fraction = transforms.crop_size[0] / transforms.resize_size[0]
    return Preprocessing(mean, std, transforms.interpolation.value, fraction)


def _timm_preprocessing(backbone: nn.Module) -> Preprocessing:
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(backbone)
    return Preprocessing(
        tuple(config["mean"]), tuple(config["std"]), config["interpolation"], config["crop_pct"]
    )


def _existing(weights: str, names: str) -> Path:
    path = Path(weights).expanduser()
    if not path.is_file():
        raise SettingError("weights", weights, f"is no file and none of {names}")
    return path


def _read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a file; nothing in it is executed."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly anything on a file that is none of its own
        raise SettingError(
            "weights", str(path), f"cannot be read as a state dict ({type(error).__name__})"
        ) from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise SettingError("weights", str(path), "holds no state dict, tensors by name")
    return content


def _fitting(
    state: dict[str, Tensor], source: Path | str, backbone: nn.Module, architecture: str, classifier: str
) -> dict[str, Tensor]:
    """The state without its classifier, which is replaced in any case.

    Raises:
        SettingError: when it is of another architecture.
    """
    expected = backbone.state_dict()
    state = {key: value for key, value in state.items() if not key.startswith(f"{classifier}.")}
    state |= {key: value for key, value in expected.items() if key.startswith(f"{classifier}.")}
    wrong = [
        key
        for key in expected.keys() | state.keys()
        if key not in expected or key not in state or expected[key].shape != state[key].shape
    ]
    if wrong:
        raise SettingError(
            "weights", str(source), f"is not a state dict of {architecture}; it differs in {min(wrong)}"
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
