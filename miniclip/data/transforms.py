"""From a picture to the normalised tensor a model reads: crop one by one, normalise a batch at once."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

Crop = Callable[[Tensor], Tensor]
"""A whole picture (3, H, W) to the square the model sees (3, S, S), both uint8."""


class TrainingCrop:
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

    def __call__(self, image: Tensor) -> Tensor:
        draws = torch.rand(self.TRIES + 1, 4).tolist()
        top, left, height, width = self._box(image.shape[1], image.shape[2], draws[1:])
        crop = F.resized_crop(
            image, top, left, height, width, [self.image_size] * 2, v2.InterpolationMode.BICUBIC
        )
        mirrored = self.flip and draws[0][0] < 0.5
        return F.horizontal_flip(crop) if mirrored else crop

    def _box(self, height: int, width: int, draws: list[list[float]]) -> tuple[int, int, int, int]:
        """Top, left, height and width of the first box within the picture; else the largest centred one."""
        least, most = self.crop_scale
        for size, shape, down, right in draws:
            area = height * width * (least + size * (most - least))
            ratio = 0.75 ** (1 - 2 * shape)  # 3/4 ... 4/3, even in its logarithm
            box_height, box_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if box_height <= height and box_width <= width:
                top, left = int(down * (height - box_height + 1)), int(right * (width - box_width + 1))
                return top, left, box_height, box_width
        box_height, box_width = min(height, round(width / 0.75)), min(width, round(height / 0.75))
        return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def evaluation_crop(image_size: int) -> Crop:
    """Shorter side to `image_size`, then the centre."""
    return v2.Compose(
        [
            v2.Resize(image_size, interpolation=v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(image_size),
        ]
    )


def normalise(pixels: Tensor) -> Tensor:
    """Pixels (..., 3, H, W) uint8 to float32 of about mean 0 and deviation 1, as torchvision has them."""
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (MEAN, STD))
    return pixels.float().sub_(255 * mean).div_(255 * std)
