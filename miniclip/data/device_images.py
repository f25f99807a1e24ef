"""Decoded images in a GPU's own memory: a batch is gathered there, and nothing travels from the host."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from miniclip.data.images import Images
from miniclip.errors import BrokenImage, counted

log = logging.getLogger(__name__)

LARGEST_FRACTION_OF_FREE_MEMORY = 0.25
"""What images may take of the GPU's memory."""

AT_ONCE = 256
"""Images that are padded on the host and sent together."""


class DeviceImages:
    """RGB images on a GPU, each padded at its right and its lower side to the largest height and width.

    Args:
        images: decoded ones; one that cannot be read stays black.
        size: height and width of the largest.
        device: where to hold them.
    """

    def __init__(self, images: Images, size: tuple[int, int], device: torch.device):
        self.pixels = torch.zeros(len(images), *size, 3, dtype=torch.uint8, device=device)
        for start in range(0, len(images), AT_ONCE):
            part = self.pixels[start : start + AT_ONCE]
            part.copy_(_padded(images, range(start, start + len(part)), size))

    def take(self, indices: Sequence[int]) -> Tensor:
        """Some of them, `B indices -> (B, 3, H, W)` uint8 in channels_last memory."""
        chosen = torch.tensor(indices).pin_memory().to(self.pixels.device, non_blocking=True)
        return self.pixels.index_select(0, chosen).permute(0, 3, 1, 2)


def on_device(images: Images, device: torch.device) -> DeviceImages | None:
    """Decoded images on a GPU; None where they would take more than a part of its free memory."""
    shapes = [shape for index in range(len(images)) if (shape := _shape(images, index)) is not None]
    if not shapes:
        return None
    heights, widths = zip(*shapes, strict=True)
    size = max(heights), max(widths)
    num_bytes = len(images) * size[0] * size[1] * 3
    free, _ = torch.cuda.mem_get_info(device)
    if num_bytes > LARGEST_FRACTION_OF_FREE_MEMORY * free:
        return None
    log.info("%s, %.1f GB, are held in the GPU's memory.", counted(len(images), "image"), num_bytes / 1e9)
    return DeviceImages(images, size, device)


def _shape(images: Images, index: int) -> tuple[int, int] | None:
    """Height and width; None of an image that cannot be read."""
    try:
        _, height, width = images[index].shape
    except BrokenImage:
        return None
    return height, width


def _padded(images: Images, indices: range, size: tuple[int, int]) -> Tensor:
    """Some images on the host, (n, H, W, 3) uint8."""
    pixels = torch.zeros(len(indices), *size, 3, dtype=torch.uint8)
    for canvas, index in zip(pixels, indices, strict=True):
        try:
            image = images[index].permute(1, 2, 0)  # (h, w, 3)
        except BrokenImage:
            continue
        canvas[: image.shape[0], : image.shape[1]] = image
    return pixels
