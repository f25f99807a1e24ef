"""The one place where a command gets a model to embed with."""

from pathlib import Path
from typing import TYPE_CHECKING

from miniclip.errors import UserError

if TYPE_CHECKING:
    from miniclip.deploy.embedding_model import EmbeddingModel


def load_model(path: Path) -> "EmbeddingModel":
    """The model of a run directory, a checkpoint or a saved folder, on the CPU.

    Raises:
        UserError: when there is none.
    """
    from miniclip.pretrained import MiniCLIP

    if not path.exists():
        raise UserError(f"There is no model {path}. Name a run directory, a checkpoint or a saved model.")
    return MiniCLIP.from_pretrained(path)
