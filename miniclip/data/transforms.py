"""From an image to what a model reads: draw a box, crop and resize to it, normalize a whole batch."""

import math
from functools import cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from miniclip.preprocessing import MEAN, STD


class Box(NamedTuple):
    """The part of an image that is cropped and resized to a square, in pixels."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool = False


class Crop(Protocol):
    """Chooses the part of an image that the model sees, as a square of `image_size` pixels a side."""

    image_size: int

    def box(self, height: int, width: int, generator: torch.Generator) -> Box:
        """The part of an image of this size; chance comes from the generator alone."""


class RandomResizedCrop:
    """Random resized crop (Szegedy et al. 2015), and a mirror image half the time if `flip`.

    Draws as torchvision's RandomResizedCrop does, but all numbers at once: it takes a third of the time.

    Args:
        image_size: side of the result, pixels.
        crop_scale: fraction of the image's area a crop keeps, (least, most). Its width is 3/4 to 4/3 of
            its height.
        flip: mirror every second image.
    """

    TRIES = 10

    def __init__(self, image_size: int, *, crop_scale: tuple[float, float], flip: bool):
        self.image_size = image_size
        self.crop_scale = crop_scale
        self.flip = flip

    def box(self, height: int, width: int, generator: torch.Generator) -> Box:
        """Draw ten boxes: the first that lies within the image; else the largest centered one."""
        (flips, *_), *draws = torch.rand(self.TRIES + 1, 4, generator=generator).tolist()
        mirrored = self.flip and flips < 0.5
        least, most = self.crop_scale

        for size, shape, down, right in draws:
            area = height * width * (least + size * (most - least))
            ratio = 0.75 ** (1 - 2 * shape)  # 3/4 ... 4/3, even in its logarithm
            box_height = round(math.sqrt(area / ratio))
            box_width = round(math.sqrt(area * ratio))
            if 0 < box_height <= height and 0 < box_width <= width:
                top = int(down * (height - box_height + 1))
                left = int(right * (width - box_width + 1))
                return Box(top, left, box_height, box_width, mirrored)

        side = min(height, round(width / 0.75)), min(width, round(height / 0.75))
        return _centered(height, width, *side)._replace(mirrored=mirrored)


class RandomSquareCrop:
    """A square of 7/8 of the shorter side, anywhere in the image, and mirrored half the time if `flip`.

    Images whose shorter side has `source_size(image_size)` pixels need no resizing.

    Args:
        image_size: side of the result, pixels.
        flip: mirror every second image.
    """

    def __init__(self, image_size: int, *, flip: bool):
        self.image_size = image_size
        self.flip = flip

    @staticmethod
    def source_size(image_size: int) -> int:
        """The shorter side of images of which the square has just `image_size` pixels a side."""
        return math.ceil(image_size * 8 / 7)

    def box(self, height: int, width: int, generator: torch.Generator) -> Box:
        """Draw a place and a direction."""
        down, right, flips = torch.rand(3, generator=generator).tolist()
        side = max(1, min(height, width) * 7 // 8)
        top = int(down * (height - side + 1))
        left = int(right * (width - side + 1))
        return Box(top, left, side, side, self.flip and flips < 0.5)


class SquashResize:
    """All of the image, squashed into a square.

    Args:
        image_size: side of the result, pixels.
    """

    def __init__(self, image_size: int):
        self.image_size = image_size

    def box(self, height: int, width: int, generator: torch.Generator) -> Box:
        """The same part every time: nothing is drawn."""
        return Box(0, 0, height, width)


class CenterCrop:
    """The largest square in the middle.

    Args:
        image_size: side of the result, pixels.
    """

    def __init__(self, image_size: int):
        self.image_size = image_size

    def box(self, height: int, width: int, generator: torch.Generator) -> Box:
        """The same part every time: nothing is drawn."""
        side = min(height, width)
        return _centered(height, width, side, side)


def _centered(height: int, width: int, box_height: int, box_width: int) -> Box:
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def crop_and_resize(image: Tensor, box: Box, size: int) -> Tensor:
    """Crop a box out of an image (3, H, W) and resize it to (3, size, size), both uint8, on the CPU.

    Bicubic, with the antialiasing of Pillow.
    """
    part = image[:, box.top : box.top + box.height, box.left : box.left + box.width]
    if part.shape[1:] != (size, size):
        # as a batch of one, pixel by pixel in memory: torch's fast way for uint8
        by_pixel = part.permute(1, 2, 0)[None].permute(0, 3, 1, 2)  # (1, 3, height, width)
        part = interpolate(by_pixel, (size, size), mode="bicubic", antialias=True)[0]
    return part.flip(2) if box.mirrored else part


def crop_and_resize_batch(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """`crop_and_resize` of a whole batch at once, on any device: two matrix products.

    Args:
        images: (B, 3, H, W) uint8.
        boxes: (B, 5) int64, the fields of each image's `Box`.

    Returns:
        (B, 3, size, size) float32, 0 to 255 in whole numbers; here and there a level from
        `crop_and_resize`, whose weights are rounded.
    """
    top, left, height, width, mirrored = boxes.T  # each (B,)
    down = _resampling(top, height, images.shape[2], size)  # (B, size, H)
    across = _resampling(left, width, images.shape[3], size)  # (B, size, W)
    across = torch.where(mirrored.bool()[:, None, None], across.flip(1), across)

    # rounded in between, as uint8 is after each of the two directions
    columns = images.permute(0, 3, 2, 1).flatten(2)  # (B, W, H * 3)
    lines = _product(across, columns).round_().clamp_(0, 255).unflatten(2, (-1, 3))  # (B, size, H, 3)
    pixels = _product(down, lines.transpose(1, 2).flatten(2)).round_().clamp_(0, 255)  # (B, size, size * 3)
    return pixels.unflatten(2, (size, 3)).permute(0, 3, 1, 2)


def _resampling(start: Tensor, length: Tensor, total: int, size: int) -> Tensor:
    """Weights (B, size, total) of a line's pixels in `size` new ones over `length` old ones from `start`.

    Catmull-Rom (a = -0.5), widened where it shrinks, as Pillow and torch have it.
    """
    start, length = start[:, None, None], length[:, None, None]  # (B, 1, 1)
    scale = length / size
    positions = torch.arange(total, device=start.device) - start  # (B, 1, total), from the box's edge
    centers = (torch.arange(size, device=start.device)[:, None] + 0.5) * scale  # (B, size, 1)

    # distance of each old pixel from each new one, in pixels of the coarser of the two
    x = ((positions + 0.5 - centers) / scale.clamp(min=1)).abs()  # (B, size, total)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0))

    weights = torch.where((positions >= 0) & (positions < length), weights, 0)
    return weights / weights.sum(dim=2, keepdim=True)


def _product(weights: Tensor, pixels: Tensor) -> Tensor:
    """`(B, new, old), (B, old, n) -> (B, new, n)` float32, of pixels that are whole numbers up to 255."""
    if weights.device.type == "cuda":  # ten times as fast; float16 holds the pixels, and sums are float32
        return torch.bmm(weights.half(), pixels.half(), out_dtype=torch.float32)
    return torch.bmm(weights, pixels.float())


def normalize(pixels: Tensor, out: Tensor | None = None) -> Tensor:
    """Pixels (B, 3, H, W) to float32 of about mean 0 and deviation 1, in channels_last memory.

    Args:
        out: where to write them; None takes new memory, which costs three times the arithmetic.
    """
    if out is None:
        out = torch.empty(pixels.shape, device=pixels.device, memory_format=torch.channels_last)

    # over whole rows: three channels alone would be loops of three
    factor, shift = _normalization_of_rows(out.shape[3], pixels.device)
    rows = out.copy_(pixels).permute(0, 2, 3, 1).view(len(out), out.shape[2], -1)  # (B, H, 3 * W)
    torch.addcmul(shift, rows, factor, out=rows)
    return out


def as_seen(images: Tensor) -> Tensor:
    """What the model sees of a batch's images (B, ...): uint8 pixels normalized, all else as it is."""
    return normalize(images) if images.dtype is torch.uint8 else images


@cache
def _normalization_of_rows(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Factor and shift, (3 * width,) each; kept, since a GPU would be waited for to make them."""
    mean = torch.tensor(MEAN, device=device)  # (3,)
    std = torch.tensor(STD, device=device)
    return (1 / (255 * std)).repeat(width), (-mean / std).repeat(width)
