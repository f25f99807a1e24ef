"""A small model without torch: an image is its 4 x 4 thumbnail in a random basis, a text its letters'."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from miniclip.data.image_content import upright_rgb
from miniclip.deploy.index import Changes, open_source, open_writer, update

SIDE = 4

MAX_LETTERS = 200


class ProjectionModel:
    """A `FingerprintedModel` whose weights are a random matrix of a seed."""

    def __init__(self, *, seed: int = 0, embed_dim: int = 24):
        self.name = f"projection {seed}"
        self.embed_dim = embed_dim
        self.logit_scale = 100.0
        self.weights = np.random.default_rng(seed).standard_normal((3 * SIDE * SIDE, embed_dim))
        self.fingerprint = hashlib.sha256(self.weights.tobytes()).hexdigest()

    def preprocess(self, image: Image.Image) -> np.ndarray:
        upright = upright_rgb(image)  # as all models do
        pixels = np.asarray(upright.resize((SIDE, SIDE)), np.float32) / 255 - 0.5
        return pixels.transpose(2, 0, 1)  # (3, S, S)

    def encode_image(self, images: np.ndarray) -> np.ndarray:
        features = images.reshape(len(images), -1) @ self.weights  # (B, D)
        return normalized(features)

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        letters = [np.bincount(np.frombuffer(text.encode(), np.uint8) % 48, minlength=48) for text in texts]
        return normalized(np.stack(letters) @ self.weights)

    def too_long(self, texts: Sequence[str]) -> list[str]:
        return [text for text in texts if len(text) > MAX_LETTERS]


def normalized(features: np.ndarray) -> np.ndarray:
    """Features (B, D) of length 1."""
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


def embed(
    folder: Path,
    *sources: Path,
    model: ProjectionModel | None = None,
    batch_size: int = 4,
    image_column: str | None = None,
) -> Changes:
    """Bring an index up to date."""
    model = model or ProjectionModel()
    opened = [open_source(source, image_column=image_column) for source in sources]
    with open_writer(folder, model, model_path=Path("projection")) as writer:
        changes = update(writer, model, opened, batch_size=batch_size)
        writer.pack()
        return changes


if __name__ == "__main__":
    import sys

    embed(Path(sys.argv[1]), *map(Path, sys.argv[2:]))
