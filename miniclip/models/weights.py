"""Files of a backbone's weights: found, read, and held against the architecture."""

from pathlib import Path

import torch
from torch import Tensor, nn

from miniclip.errors import SettingError


def existing_file(weights: str, names: str) -> Path:
    """Path of a file of weights.

    Args:
        names: what `weights` might have been instead, for the error.
    """
    path = Path(weights).expanduser()
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
