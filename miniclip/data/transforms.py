"""From a picture to what a model reads: draw a box, cut it out, normalise a batch at once."""

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from miniclip.preprocessing import MEAN, STD


class Box(NamedTuple):
    """The part of a picture that is cut out and scaled to a square, in pixels."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool = False


class Crop(Protocol):
    """Chooses the part of a picture that the model sees, as a square of `image_size` pixels a side."""

    image_size: int

    def box(self, height: int, width: int, generator: torch.Generator) -> Box: ...


class RandomResizedCrop:
    """Random resized crop (Szegedy et al. 2015), and a mirror image half the time if `flip`.

    Draws as torchvision's RandomResizedCrop does, but all numbers at once: it takes a third of the time.

    Args:
        image_size: side of the result, pixels.
        crop_scale: share of the picture's area a crop keeps, (least, most). Its width is 3/4 to 4/3 of
            its height.
        flip: mirror every second picture.
    """

    TRIES = 10

    def __init__(self, image_size: int, *, crop_scale: tuple[float, float], flip: bool):
        self.image_size = image_size
        self.crop_scale = crop_scale
        self.flip = flip

    def box(self, height: int, width: int, generator: torch.Generator) -> Box:
        """The first of ten boxes that lies within the picture; else the largest centred one."""
        (flips, *_), *draws = torch.rand(self.TRIES + 1, 4, generator=generator).tolist()
        mirrored = self.flip and flips < 0.5
        least, most = self.crop_scale
        for size, shape, down, right in draws:
            area = height * width * (least + size * (most - least))
            ratio = 0.75 ** (1 - 2 * shape)  # 3/4 ... 4/3, even in its logarithm
            box_height, box_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < box_height <= height and 0 < box_width <= width:
                top, left = int(down * (height - box_height + 1)), int(right * (width - box_width + 1))
                return Box(top, left, box_height, box_width, mirrored)
        side = min(height, round(width / 0.75)), min(width, round(height / 0.75))
        return _centred(height, width, *side)._replace(mirrored=mirrored)


class RandomSquareCrop:
    """A square of 7/8 of the shorter side, anywhere in the picture, and mirrored half the time if `flip`.

    Pictures whose shorter side has `picture_size(image_size)` pixels need no resizing.
    """

    def __init__(self, image_size: int, *, flip: bool):
        self.image_size = image_size
        self.flip = flip

    @staticmethod
    def picture_size(image_size: int) -> int:
        """The shorter side of pictures of which the square has just `image_size` pixels a side."""
        return math.ceil(image_size * 8 / 7)

    def box(self, height: int, width: int, generator: torch.Generator) -> Box:
        """Draws a place and a direction."""
        down, right, flips = torch.rand(3, generator=generator).tolist()
        side = max(1, min(height, width) * 7 // 8)
        top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
        return Box(top, left, side, side, self.flip and flips < 0.5)


class SquashResize:
    """All of the picture, squeezed into a square.

    Args:
        image_size: side of the result, pixels.
    """

    def __init__(self, image_size: int):
        self.image_size = image_size

    def box(self, height: int, width: int, generator: torch.Generator) -> Box:
        """Draws nothing."""
        return Box(0, 0, height, width)


class CenterCrop:
    """The largest square in the middle.

    Args:
        image_size: side of the result, pixels.
    """

    def __init__(self, image_size: int):
        self.image_size = image_size

    def box(self, height: int, width: int, generator: torch.Generator) -> Box:
        """Draws nothing."""
        side = min(height, width)
        return _centred(height, width, side, side)


def _centred(height: int, width: int, box_height: int, box_width: int) -> Box:
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def cut(picture: Tensor, box: Box, size: int) -> Tensor:
    """Cut a box out of a picture (3, H, W) and scale it to (3, size, size), both uint8, on the CPU.

    Bicubic, with the antialiasing of Pillow.
    """
    part = picture[:, box.top : box.top + box.height, box.left : box.left + box.width]
    if part.shape[1:] != (size, size):
        # as a batch of one, pixel by pixel in memory: torch's fast way for uint8
        by_pixel = part.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
        part = interpolate(by_pixel, (size, size), mode="bicubic", antialias=True)[0]
    return part.flip(2) if box.mirrored else part


def crop_and_resize_batch(pictures: Tensor, boxes: Tensor, size: int) -> Tensor:
    """`cut` of a whole batch at once, on any device: two matrix products.

    Args:
        pictures: (B, 3, H, W) uint8.
        boxes: (B, 5) int64, the fields of each picture's `Box`.

    Returns:
        (B, 3, size, size) float32, 0 to 255 in whole numbers; here and there a level from `cut`, whose
        weights are rounded.
    """
    top, left, height, width, mirrored = boxes.T
    down = _resampling(top, height, pictures.shape[2], size)
    across = _resampling(left, width, pictures.shape[3], size)
    across = torch.where(mirrored.bool()[:, None, None], across.flip(1), across)
    lines = torch.einsum("btw,bchw->bcht", across, pictures.float()).round_().clamp_(0, 255)
    return torch.einsum("bsh,bcht->bcst", down, lines).round_().clamp_(0, 255)


def _resampling(start: Tensor, length: Tensor, total: int, size: int) -> Tensor:
    """Weights (B, size, total) of a line's pixels in `size` new ones over `length` old ones from `start`.

    Catmull-Rom (a = -0.5), widened where it shrinks, as Pillow and torch have it.
    """
    start, length = start[:, None, None].double(), length[:, None, None].double()
    scale = length / size
    places = torch.arange(total, device=start.device, dtype=torch.float64)
    centres = start + (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    x = ((places + 0.5 - centres) / scale.clamp(min=1)).abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0))
    weights = torch.where((places >= start) & (places < start + length), weights, 0)
    return (weights / weights.sum(dim=2, keepdim=True)).float()


def normalize(pixels: Tensor, out: Tensor | None = None) -> Tensor:
    """Pixels (B, 3, H, W) to float32 of about mean 0 and deviation 1, in channels_last memory.

    Args:
        out: where to write them; None takes new memory, which costs three times the arithmetic.
    """
    if out is None:
        out = torch.empty(pixels.shape, device=pixels.device, memory_format=torch.channels_last)
    mean, std = (torch.tensor(values, device=pixels.device) for values in (MEAN, STD))
    # over whole rows: three channels alone would be loops of three
    factor, shift = (1 / (255 * std)).repeat(out.shape[3]), (-mean / std).repeat(out.shape[3])
    rows = out.copy_(pixels).permute(0, 2, 3, 1).view(len(out), out.shape[2], -1)
    torch.addcmul(shift, rows, factor, out=rows)
    return out
