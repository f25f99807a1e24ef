"""All images of a sequence decoded once, by several threads, as they are kept."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from miniclip.data.images import Images
from miniclip.data.transforms import Crop, crop_and_resize
from miniclip.errors import BrokenImage

READ_AHEAD = 256
"""Images in the decoder's hands at a time."""


class DecodedImage(NamedTuple):
    """An image to keep.

    Attributes:
        pixels: (H, W, 3) uint8.
        digest: blake2b of the image as it was decoded, before it was shrunk or cropped, 32 hexadecimal
            digits.
    """

    pixels: np.ndarray
    digest: str


def decode_all(
    images: Images, *, size: int, skips_broken: bool, crop: Crop | None = None
) -> Iterator[DecodedImage | BrokenImage]:
    """Each image in order, or why it could not be read; decoded by several threads.

    Args:
        size: of an image's shorter side, which is shrunk to it if it is longer.
        skips_broken: give why an image cannot be read, instead of raising it.
        crop: one that draws nothing: keep just what it sees, at its `image_size`.
    """

    def decode(index: int) -> DecodedImage | BrokenImage:
        try:
            image = images[index]
        except BrokenImage as error:
            if not skips_broken:
                raise
            return error
        return DecodedImage(_by_pixel(_shrunk(image, size, crop)), _digest(image))

    num_images = len(images)
    bar = tqdm(total=num_images, desc="decoding", unit="img", leave=False, disable=None)
    with bar, ThreadPoolExecutor(os.cpu_count()) as threads:
        # piece by piece: map takes all of its input at once, and would hold every image
        for start in range(0, num_images, READ_AHEAD):
            indices = range(start, min(start + READ_AHEAD, num_images))
            for result in threads.map(decode, indices):
                bar.update()
                yield result


def _shrunk(image: Tensor, size: int, crop: Crop | None) -> Tensor:
    """The image (3, H, W) at the size at which it is kept."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    height, width = image.shape[1:]
    if crop is not None:
        return crop_and_resize(image, crop.box(height, width, torch.Generator()), size)
    if min(height, width) > size:
        return F.resize(image, [size], InterpolationMode.BICUBIC)
    return image


def _digest(image: Tensor) -> str:
    """A hash of the shape and the pixels of an image (3, H, W); of 128 bits, so that no two share one."""
    digest = hashlib.blake2b(repr(tuple(image.shape)).encode(), digest_size=16)
    digest.update(_by_pixel(image).data)
    return digest.hexdigest()


def _by_pixel(image: Tensor) -> np.ndarray:
    """The image (3, H, W) as (H, W, 3), row by row in memory."""
    return image.permute(1, 2, 0).contiguous().numpy()
