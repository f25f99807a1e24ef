"""The one place where a command gets a model to embed with."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miniclip.errors import UserError

if TYPE_CHECKING:
    from miniclip.config.restore import Restored
    from miniclip.deploy.embedding_model import EmbeddingModel


def load_model(path: Path) -> "EmbeddingModel":
    """The model of a run directory or a checkpoint, on the CPU."""
    from miniclip.config.restore import restore

    if not path.exists():
        raise UserError(f"There is no model {path}. Name a run directory or a checkpoint.")
    return _OfRun(str(path), restore(path))


class _OfRun:
    """A restored run as an `EmbeddingModel`."""

    def __init__(self, name: str, restored: "Restored"):
        import torch

        from miniclip.evaluation import MiniCLIPModel

        self.name = name
        self.tokenizer = restored.tokenizer
        self.context_length = restored.tokenizer.context_length
        self.fingerprint = _fingerprint(restored)
        self.model = MiniCLIPModel(
            name,
            restored.model,
            restored.tokenizer,
            preprocess=restored.preprocessing,
            device=torch.device("cpu"),
        )
        self.preprocess = restored.preprocessing
        self.embed_dim = int(self.encode_text(["a"]).shape[1])

    def encode_image(self, images: Any) -> Any:
        return self.model.encode_image(images).cpu()

    def encode_text(self, texts: Sequence[str]) -> Any:
        return self.model.encode_text(texts).cpu()

    def token_lengths(self, texts: Sequence[str]) -> list[int]:
        return self.tokenizer.lengths(list(texts))


def _fingerprint(restored: "Restored") -> str:
    """A digest of all that an embedding depends on."""
    plain = [restored.tokenizer.state(), restored.preprocessing.state()]
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for name, tensor in sorted(restored.model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
