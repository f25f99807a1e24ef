"""Image towers out of the package timm."""

from typing import Any

from torch import nn

from miniclip.errors import SettingError, UserError, first_line
from miniclip.models.image_encoder import ImageEncoder, width_of
from miniclip.models.small_map_conv import SmallMapConv2d
from miniclip.models.weights import existing_file, fitting_state, read_state, with_names_of_timm
from miniclip.preprocessing import IMAGENET, Preprocessing


class TimmEncoder(ImageEncoder):
    """Any model of the package timm.

    Args:
        architecture: timm's name of it.
        weights: null, "pretrained" for those that timm fetches, or the path of a state dict, also of one of
            EfficientNet-Lite in the names of the package efficientnet-pytorch.
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
            hint = f"near are: {near}" if near else "timm.list_models() names them"
            raise SettingError("architecture", architecture, f"is no model of timm; {hint}")

        backbone = _timm_model(architecture, image_size, pretrained=weights == "pretrained")
        if weights is not None and weights != "pretrained":
            path = existing_file(weights, "null, pretrained")
            classifier = str(backbone.default_cfg.get("classifier", "head"))
            state = with_names_of_timm(read_state(path), backbone)
            backbone.load_state_dict(fitting_state(state, path, backbone, architecture, classifier))

        SmallMapConv2d.replace_in(backbone)
        super().__init__(
            backbone,
            width=width_of(backbone, architecture, image_size),
            preprocessing=IMAGENET if weights is None else _timm_preprocessing(backbone),
            **encoder_settings,
        )


def _timm_model(architecture: str, image_size: int, *, pretrained: bool) -> Any:
    import timm

    settings: dict[str, Any] = {"num_classes": 0, "pretrained": pretrained}
    try:
        try:
            return timm.create_model(architecture, img_size=image_size, **settings)
        except TypeError:  # of any size
            return timm.create_model(architecture, **settings)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise UserError(
            f"encoder.image.weights=pretrained: those of {architecture} cannot be fetched "
            f"({first_line(error)}). Download them elsewhere: encoder.image.weights=PATH"
        ) from None


def _timm_preprocessing(backbone: nn.Module) -> Preprocessing:
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(backbone)
    return Preprocessing(
        tuple(config["mean"]), tuple(config["std"]), config["interpolation"], config["crop_pct"]
    )
