"""A data set as features: what every measure starts from."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from miniclip.metrics.retrieval import caption_owners
from miniclip.models.clip import CLIP
from miniclip.models.modes import modes_kept
from miniclip.tokenizers import Tokenizer

Autocast = Callable[[], AbstractContextManager]


class Features(NamedTuple):
    """A split in the joint space, all captions of each image.

    Attributes:
        images: (N, D) float32, of length 1.
        texts: (M, D) float32, of length 1.
        image_of_caption: (M,) int64, for each caption the row of its image.
    """

    images: Tensor
    texts: Tensor
    image_of_caption: Tensor

    @property
    def first_captions(self) -> Tensor:
        """For each image its first caption's features, (N, D), in whatever order the captions are."""
        owners = self.image_of_caption
        numbers = torch.arange(len(owners), device=owners.device)  # (M,)
        first = numbers.new_full((len(self.images),), len(owners))
        return self.texts[first.scatter_reduce(0, owners, numbers, "amin")]


@torch.no_grad()
def encode(
    model: CLIP,
    images: Iterable[Tensor],
    captions: Sequence[Sequence[str]],
    tokenizer: Tokenizer,
    *,
    device: torch.device,
    autocast: Autocast,
    batch_size: int,
) -> Features:
    """Encode images, and all their captions, in evaluation mode.

    Not in torch's inference mode, where autocast casts each weight anew for every batch.

    Args:
        images: batches (B, 3, H, W) of the images in order, on `device`.
        captions: for each image all its captions.
        batch_size: captions encoded at once.
    """
    texts, image_of_caption = caption_owners(captions)

    with autocast():
        image_features = encode_images(model, images)
        text_features = encode_texts(model, texts, tokenizer, device=device, batch_size=batch_size)

    return Features(image_features, text_features, image_of_caption.to(device))


@torch.no_grad()
def encode_images(model: CLIP, images: Iterable[Tensor]) -> Tensor:
    """Encode batches (B, 3, H, W) in evaluation mode: (N, D), float32, of length 1."""
    with _in_evaluation(model):
        return torch.cat([model.encode_image(batch) for batch in images])


@torch.no_grad()
def encode_texts(
    model: CLIP, texts: Sequence[str], tokenizer: Tokenizer, *, device: torch.device, batch_size: int
) -> Tensor:
    """Encode captions in evaluation mode: `M texts -> (M, D)`, float32, of length 1."""
    # those of one length together, so that little is padded
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    features = []
    with _in_evaluation(model):
        for start in range(0, len(order), batch_size):
            token_ids, mask = tokenizer.encode([texts[i] for i in order[start : start + batch_size]])
            features.append(model.encode_text(token_ids.to(device), mask.to(device)))
    return torch.cat(features)[torch.tensor(order).argsort()]


@contextmanager
def _in_evaluation(model: CLIP) -> Iterator[None]:
    # to set the mode of every module takes a text query longer than to look at it
    if not any(module.training for module in model.modules()):
        yield
        return

    with modes_kept(model):
        model.eval()
        yield
