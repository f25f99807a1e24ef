"""Models under test: what is asked of them, and open_clip's; ours is `miniclip.pretrained.MiniCLIP`."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from miniclip.data.dataset import ImageTextDataset
from miniclip.data.image_content import upright_rgb
from miniclip.data.sampler import sequential_batches
from miniclip.embedding_model import EmbeddingModel
from miniclip.errors import UserError, first_line

BATCH_SIZE = 256


class DatasetEncoder(EmbeddingModel, Protocol):
    """An `EmbeddingModel` in torch that reads whole data sets: what evaluation measures.

    Attributes:
        precision: of the arithmetic, such as float32.
    """

    @property
    def precision(self) -> str: ...

    def preprocess(self, image: Image.Image | Tensor) -> Tensor:
        """`image (PIL, or (3, H, W) uint8) -> (3, S, S)` float32, what `encode_image` takes."""

    def encode_image(self, images: Tensor) -> Tensor:
        """`(B, 3, S, S) -> (B, D)` float32, of length 1."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """`M raw texts -> (M, D)` float32, of length 1."""

    def encode_dataset(self, dataset: ImageTextDataset) -> Tensor:
        """All images of a data set, each preprocessed: `N images -> (N, D)` float32, of length 1."""


class OpenClipModel:
    """A model of open_clip as a `DatasetEncoder`, with its own preprocessing to its own `image_size`.

    Args:
        text: NAME:WEIGHTS, weights being a file or one of open_clip's names for them.
        device: where it computes.

    Raises:
        UserError: when open_clip is missing, knows no such model, or the weights are not there.
    """

    precision = "float32"

    def __init__(self, text: str, device: torch.device):
        try:
            import open_clip
        except ImportError:
            raise UserError(f'open_clip:{text} needs open_clip: pip install -e ".[open_clip]"') from None

        name, _, weights = text.partition(":")
        if name not in open_clip.list_models():
            raise UserError(f"open_clip has no model {name}; see open_clip.list_models().")
        if not weights:
            raise UserError(f"open_clip:{name} needs weights: open_clip:{name}:FILE, or a name of theirs.")

        try:
            # weights_only: a file may be a stranger's, and nothing in it is executed
            model, _, self._transform = open_clip.create_model_and_transforms(
                name, pretrained=weights, weights_only=True
            )
            self._tokenizer = open_clip.get_tokenizer(name)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            reason = first_line(error)
            raise UserError(
                f"The weights {weights} of open_clip:{name} cannot be had ({reason}). Without network, "
                f"download them elsewhere and give the file: open_clip:{name}:FILE"
            ) from None

        self.name = f"open_clip {name} {Path(weights).stem}"
        self.model = model.to(device).eval()

        # a number, or height and width
        size = model.visual.image_size
        self.image_size = size if isinstance(size, int) else max(size)
        self.device = device

    @property
    def logit_scale(self) -> float:
        return float(self.model.logit_scale.exp())

    def preprocess(self, image: Image.Image | Tensor) -> Tensor:
        # their transforms take images of Pillow, whose arrays are (H, W, 3)
        if isinstance(image, Tensor):
            image = Image.fromarray(image.permute(1, 2, 0).numpy())
        transformed: Tensor = self._transform(upright_rgb(image))
        return transformed

    @torch.inference_mode()
    def encode_image(self, images: Tensor) -> Tensor:
        features: Tensor = self.model.encode_image(images.to(self.device), normalize=True)
        return features.float()

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        token_ids = self._tokenizer(list(texts)).split(BATCH_SIZE)  # each (B, L)
        features = (self.model.encode_text(part.to(self.device), normalize=True) for part in token_ids)
        return torch.cat([part.float() for part in features])  # (M, D)

    def encode_dataset(self, dataset: ImageTextDataset) -> Tensor:
        return encode_one_by_one(self, dataset)


def encode_one_by_one(model: DatasetEncoder, dataset: ImageTextDataset) -> Tensor:
    """All images of a data set by a model's own `preprocess`: `N images -> (N, D)` float32, of length 1."""
    images = dataset.split.images
    features = []

    for rows in sequential_batches(len(images), BATCH_SIZE):
        batch = torch.stack([model.preprocess(images[row]) for row in rows])  # (B, 3, S, S)
        features.append(model.encode_image(batch))  # (B, D)

    return torch.cat(features)
