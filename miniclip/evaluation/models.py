"""Models under test: ours, and open_clip's."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from miniclip.data.dataset import ImageTextDataset
from miniclip.data.loader import Loader
from miniclip.data.sampler import sequential_batches
from miniclip.errors import UserError
from miniclip.metrics.features import encode_images, encode_texts
from miniclip.models.clip import MiniCLIP
from miniclip.tokenizers import Tokenizer

BATCH_SIZE = 256


class EmbeddingModel(Protocol):
    """A model under test.

    Attributes:
        name: how tables call it.
        device: where it computes.
    """

    name: str
    device: torch.device

    def encode_images(self, dataset: ImageTextDataset) -> Tensor:
        """`N images -> (N, D)` float32, of length 1."""

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """`M captions -> (M, D)` float32, of length 1."""


class MiniCLIPModel:
    """A MiniCLIP as a `EmbeddingModel`."""

    def __init__(self, name: str, model: MiniCLIP, tokenizer: Tokenizer, device: torch.device):
        self.name = name
        self.model = model.to(device)
        self.tokenizer = tokenizer
        self.device = device

    def encode_images(self, dataset: ImageTextDataset) -> Tensor:
        order = sequential_batches(len(dataset), BATCH_SIZE)
        loader = Loader(dataset, order, device=self.device, num_workers=0)
        return encode_images(self.model, (batch.images for batch in loader))

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return encode_texts(self.model, texts, self.tokenizer, device=self.device, batch_size=BATCH_SIZE)


class OpenClipModel:
    """A model of open_clip as a `EmbeddingModel`, with its own preprocessing to its own `image_size`.

    Args:
        text: NAME:WEIGHTS, weights being a file or one of open_clip's names for them.

    Raises:
        UserError: when open_clip is missing, knows no such model, or the weights are not there.
    """

    def __init__(self, text: str, device: torch.device):
        try:
            import open_clip
        except ImportError:
            raise UserError(f'open_clip:{text} needs open_clip: pip install -e ".[bench]"') from None
        name, _, weights = text.partition(":")
        if name not in open_clip.list_models():
            raise UserError(f"open_clip has no model {name}; see open_clip.list_models().")
        if not weights:
            raise UserError(f"open_clip:{name} needs weights: open_clip:{name}:FILE, or a name of theirs.")
        try:
            model, _, self.preprocess = open_clip.create_model_and_transforms(
                name, pretrained=weights, weights_only=True
            )
            self.tokenizer = open_clip.get_tokenizer(name)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise UserError(
                f"The weights {weights} of open_clip:{name} cannot be had ({reason}). Without network, "
                f"download them elsewhere and give the file: open_clip:{name}:FILE"
            ) from None
        self.name = f"open_clip {name} {Path(weights).stem}"
        self.model = model.to(device).eval()
        size = model.visual.image_size
        self.image_size = size if isinstance(size, int) else max(size)
        self.device = device

    @torch.inference_mode()
    def encode_images(self, dataset: ImageTextDataset) -> Tensor:
        features = []
        for rows in sequential_batches(len(dataset), BATCH_SIZE):
            pictures = (dataset.split.images[row].permute(1, 2, 0).numpy() for row in rows)
            batch = torch.stack([self.preprocess(Image.fromarray(picture)) for picture in pictures])
            features.append(self.model.encode_image(batch.to(self.device), normalize=True).float())
        return torch.cat(features)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        token_ids = self.tokenizer(list(texts)).split(BATCH_SIZE)
        parts = (self.model.encode_text(part.to(self.device), normalize=True) for part in token_ids)
        return torch.cat([part.float() for part in parts])
