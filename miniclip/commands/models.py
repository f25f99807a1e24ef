"""The one place where a command gets a model to embed with."""

from pathlib import Path
from typing import TYPE_CHECKING

from miniclip.errors import UserError

if TYPE_CHECKING:
    from miniclip.embedding_model import FingerprintedModel


def load_model(path: Path) -> "FingerprintedModel":
    """The model of a run directory, a checkpoint or a saved or exported folder, on the CPU.

    Raises:
        UserError: when there is none.
    """
    from miniclip.deploy.onnx_model import OnnxModel, is_onnx_folder

    if is_onnx_folder(path):
        return OnnxModel(path)  # without torch

    from miniclip.pretrained import MiniCLIP

    if not path.exists():
        raise UserError(
            f"There is no model {path}. Name a run directory, a checkpoint, a saved or an exported model."
        )
    return MiniCLIP.from_pretrained(path)
