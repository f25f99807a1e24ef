"""Models under test: ours, and open_clip's."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from miniclip.data.dataset import ImageTextDataset
from miniclip.data.eval_preprocessing import EvalPreprocessing
from miniclip.data.loader import Loader
from miniclip.data.sampler import sequential_batches
from miniclip.errors import UserError
from miniclip.metrics.features import encode_images, encode_texts
from miniclip.models.clip import MiniCLIP
from miniclip.tokenizers import Tokenizer

BATCH_SIZE = 256


class EmbeddingModel(Protocol):
    """A model that carries images and raw texts into a joint space.

    Attributes:
        name: how tables call it.
        device: where it computes.
    """

    name: str
    device: torch.device

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by to become logits."""

    def preprocess(self, image: Image.Image | Tensor) -> Tensor:
        """`image (PIL, or (3, H, W) uint8) -> (3, S, S)` float32, what `encode_image` takes."""

    def encode_image(self, images: Tensor) -> Tensor:
        """`(B, 3, S, S) -> (B, D)` float32, of length 1."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """`M raw texts -> (M, D)` float32, of length 1."""

    def encode_dataset(self, dataset: ImageTextDataset) -> Tensor:
        """All images of a data set, each preprocessed: `N images -> (N, D)` float32, of length 1."""


class MiniCLIPModel:
    """A MiniCLIP as an `EmbeddingModel`.

    Args:
        name: how tables call it.
        model: stays in the mode, training or evaluation, that it is in.
        tokenizer: of raw texts.
        preprocess: of images.
        device: where it computes; the model is moved there.
    """

    def __init__(
        self,
        name: str,
        model: MiniCLIP,
        tokenizer: Tokenizer,
        *,
        preprocess: EvalPreprocessing,
        device: torch.device,
    ):
        self.name = name
        self.model = model.to(device)
        self.tokenizer = tokenizer
        self.preprocess = preprocess
        self.device = device

    @property
    def logit_scale(self) -> float:
        training = self.model.training
        self.model.eval()
        # in evaluation no temperature depends on the similarities it is given
        with torch.no_grad():
            scale = self.model.temperature(torch.zeros(1, 1, device=self.device))
        self.model.train(training)
        return float(scale)

    def encode_image(self, images: Tensor) -> Tensor:
        return encode_images(self.model, [images.to(self.device)])

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return encode_texts(self.model, texts, self.tokenizer, device=self.device, batch_size=BATCH_SIZE)

    def encode_dataset(self, dataset: ImageTextDataset) -> Tensor:
        # as `preprocess` does, but a whole batch at a time, and on the GPU if there is one
        order = sequential_batches(len(dataset), BATCH_SIZE)
        loader = Loader(dataset, order, device=self.device, num_workers=0)
        return encode_images(self.model, (batch.images for batch in loader))


class OpenClipModel:
    """A model of open_clip as an `EmbeddingModel`, with its own preprocessing to its own `image_size`.

    Args:
        text: NAME:WEIGHTS, weights being a file or one of open_clip's names for them.
        device: where it computes.

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
            model, _, self._transform = open_clip.create_model_and_transforms(
                name, pretrained=weights, weights_only=True
            )
            self._tokenizer = open_clip.get_tokenizer(name)
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

    @property
    def logit_scale(self) -> float:
        return float(self.model.logit_scale.exp())

    def preprocess(self, image: Image.Image | Tensor) -> Tensor:
        if isinstance(image, Tensor):
            image = Image.fromarray(image.permute(1, 2, 0).numpy())
        transformed: Tensor = self._transform(image)
        return transformed

    @torch.inference_mode()
    def encode_image(self, images: Tensor) -> Tensor:
        features: Tensor = self.model.encode_image(images.to(self.device), normalize=True)
        return features.float()

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        token_ids = self._tokenizer(list(texts)).split(BATCH_SIZE)
        features = (self.model.encode_text(part.to(self.device), normalize=True) for part in token_ids)
        return torch.cat([part.float() for part in features])

    def encode_dataset(self, dataset: ImageTextDataset) -> Tensor:
        images = dataset.split.images
        features = []
        for rows in sequential_batches(len(images), BATCH_SIZE):
            batch = torch.stack([self.preprocess(images[row]) for row in rows])
            features.append(self.encode_image(batch))
        return torch.cat(features)
