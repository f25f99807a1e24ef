"""Files of a backbone's weights: found, read, and held against the architecture."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from miniclip.errors import SettingError, UserError
from miniclip.files import located

LAYERS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
LAYERS_OF_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
LAYERS_OF_EXPANDED_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
"""Names of EfficientNet-Lite's layers in the package efficientnet-pytorch, and in timm."""


def digests_of_weights(config: dict[str, Any]) -> dict[str, str]:
    """Hashes of the files that a config's towers begin with, by the settings that name them."""
    found = {}
    for tower in ("image", "text"):
        weights = config.get("encoder", {}).get(tower, {}).get("weights")
        with suppress(UserError, OSError):  # what is not there any more has no hash
            if isinstance(weights, str) and Path(located(weights)).is_file():
                content = Path(located(weights)).read_bytes()
                found[f"encoder.{tower}.weights"] = hashlib.sha256(content).hexdigest()[:16]
    return found


def existing_file(weights: str, names: str) -> Path:
    """Path of a file of weights; `package:NAME/FILE` is one inside an installed package.

    Args:
        names: what `weights` might have been instead, for the error.
    """
    path = Path(located(weights))
    if not path.is_file():
        raise SettingError("weights", weights, f"is no file and none of {names}")
    return path


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a file; nothing in it is executed."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly anything on a file that is none of its own
        raise SettingError(
            "weights", str(path), f"cannot be read as a state dict ({type(error).__name__})"
        ) from None

    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise SettingError("weights", str(path), "holds no state dict, tensors by name")
    return content


def with_names_of_timm(state: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """A state dict of EfficientNet-Lite as the package efficientnet-pytorch names it, by timm's names.

    The packages count blocks through where timm counts them by stage, and a block without expansion has a
    batch norm less. Any other state dict is left as it is.
    """
    if "_conv_stem.weight" not in state:
        return state

    paths: list[str] = []
    stages: Any = getattr(backbone, "blocks", nn.Sequential())
    for stage, blocks in enumerate(stages.children()):
        paths += [f"blocks.{stage}.{number}" for number, _ in enumerate(blocks.children())]

    numbers = {str(number) for number in range(len(paths))}
    named = {}
    for key, value in state.items():
        first, *rest = key.split(".")
        if first == "_blocks" and rest[0] in numbers:
            number, layer, *rest = rest
            is_expanded = f"_blocks.{number}._expand_conv.weight" in state
            layers = LAYERS_OF_EXPANDED_BLOCK if is_expanded else LAYERS_OF_BLOCK
            first = f"{paths[int(number)]}.{layers.get(layer, layer)}"
        named[".".join([LAYERS.get(first, first), *rest])] = value
    return named


def fitting_state(
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
