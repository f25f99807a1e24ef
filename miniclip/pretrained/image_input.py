"""Images as users have them, as batches that a network sees."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from miniclip.data.eval_preprocessing import EvalPreprocessing
from miniclip.errors import UserError, at_least

ImageInput = str | Path | Image.Image | Tensor
"""A file, an image of Pillow, or pixels (3, H, W) uint8."""


def batches_of(
    images: ImageInput | Sequence[ImageInput] | Tensor, preprocess: EvalPreprocessing, *, batch_size: int
) -> Iterator[Tensor]:
    """What a network sees, (B, 3, S, S) float32 at a time; files are read by several threads.

    Args:
        images: one or several, or a batch (N, 3, S, S) float32 that is preprocessed already.

    Raises:
        UserError: when an image cannot be read, or a tensor has another shape.
    """
    at_least("batch_size", batch_size, 1)
    if isinstance(images, Tensor) and images.is_floating_point():
        yield from _checked(images, preprocess.image_size).float().split(batch_size)
        return

    is_one = isinstance(images, str | Path | Image.Image) or (
        isinstance(images, Tensor) and images.ndim == 3
    )
    several: list[ImageInput] = [images] if is_one else list(images)  # type: ignore[list-item, arg-type]
    for image in several:
        _check_kind(image)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, len(several), batch_size):
            part = several[start : start + batch_size]
            yield torch.stack(list(threads.map(lambda image: _seen(image, preprocess), part)))


def _checked(images: Tensor, size: int) -> Tensor:
    """A batch of preprocessed images, or one as a batch."""
    images = images[None] if images.ndim == 3 else images
    if images.shape[1:] != (3, size, size):
        shape = ", ".join(map(str, images.shape))
        raise UserError(
            f"encode_image takes preprocessed images (N, 3, {size}, {size}), not ({shape}). Use "
            "model.preprocess(image), or give files, images of Pillow or pixels (3, H, W) uint8."
        )
    return images


def _seen(image: ImageInput, preprocess: EvalPreprocessing) -> Tensor:
    """What the network sees of one image, (3, S, S)."""
    if isinstance(image, str | Path):
        return preprocess.read(Path(image).expanduser())
    return preprocess(image)


def _check_kind(image: object) -> None:
    """Stop at what is neither a file nor an image."""
    if isinstance(image, str | Path | Image.Image):
        return
    if not isinstance(image, Tensor):
        raise UserError(
            f"encode_image takes files, images of Pillow or tensors, not {type(image).__name__}. Make of "
            "an array (H, W, 3) uint8 an image: PIL.Image.fromarray(array)"
        )
    if image.ndim != 3 or len(image) != 3 or image.dtype != torch.uint8 or not image.numel():
        raise UserError(
            f"An image as a tensor has the shape (3, H, W) and uint8, not {tuple(image.shape)} and "
            f"{image.dtype}."
        )
