"""What an index asks of a model, with torch or without."""

from collections.abc import Sequence
from typing import Any, Protocol

from PIL import Image


class EmbeddingModel(Protocol):
    """A model that carries images and texts into a joint space.

    Arrays are torch tensors or NumPy arrays on the CPU: a model in ONNX knows no torch.

    Attributes:
        name: how messages call it.
        fingerprint: hexadecimal digest of weights, tokenizer and preprocessing: models that embed alike
            have the same one.
        embed_dim: size D of the joint space.
    """

    name: str

    @property
    def fingerprint(self) -> str: ...

    @property
    def embed_dim(self) -> int: ...

    def preprocess(self, image: Image.Image) -> Any:
        """`image -> (3, S, S)` float32, what `encode_image` takes; called by several threads."""

    def encode_image(self, images: Any) -> Any:
        """`(B, 3, S, S) -> (B, D)` float32, of length 1."""

    def encode_text(self, texts: Sequence[str]) -> Any:
        """`M raw texts -> (M, D)` float32, of length 1; logs a warning where one loses its tail."""
