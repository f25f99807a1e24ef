"""What every trained model can do, whoever trained it, with torch or without."""

from collections.abc import Sequence
from typing import Any, Protocol

from PIL import Image


class EmbeddingModel(Protocol):
    """A model that carries images and raw texts into a joint space.

    Arrays are torch tensors or NumPy arrays: a model in ONNX knows no torch. What evaluation and indexes
    ask beyond this stands where they are: `miniclip.evaluation.models.DatasetEncoder` and
    `FingerprintedModel` below. `miniclip.MiniCLIP` is all three.

    Attributes:
        name: how tables and messages call it.
    """

    name: str

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by to become logits."""

    def preprocess(self, image: Image.Image) -> Any:
        """`image -> (3, S, S)` float32, what `encode_image` takes; called by several threads."""

    def encode_image(self, images: Any) -> Any:
        """`(B, 3, S, S) -> (B, D)` float32, of length 1."""

    def encode_text(self, texts: Sequence[str]) -> Any:
        """`M raw texts -> (M, D)` float32, of length 1."""


class FingerprintedModel(EmbeddingModel, Protocol):
    """An `EmbeddingModel` that an index may be made by, for it can be told from all others.

    Attributes:
        fingerprint: hexadecimal digest of weights, tokenizer and preprocessing: models that embed alike
            have the same one. Behind a dash, the precision that a model was exported in, if not float32.
        embed_dim: size D of the joint space.
    """

    @property
    def fingerprint(self) -> str: ...

    @property
    def embed_dim(self) -> int: ...

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """The texts of which the model does not read the end."""
