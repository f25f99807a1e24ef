"""From a picture to the normalised tensor a model reads: crop one by one, normalise a batch at once."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

Crop = Callable[[Tensor], Tensor]
"""A whole picture (3, H, W) to the square the model sees (3, S, S), both uint8."""


def training_crop(image_size: int, *, crop_scale: tuple[float, float], flip: bool) -> Crop:
    """Random resized crop, and a mirror image half the time if `flip`."""
    steps: list[Crop] = [
        v2.RandomResizedCrop(image_size, scale=crop_scale, interpolation=v2.InterpolationMode.BICUBIC)
    ]
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose(steps)


def evaluation_crop(image_size: int) -> Crop:
    """Shorter side to `image_size`, then the centre."""
    return v2.Compose(
        [
            v2.Resize(image_size, interpolation=v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(image_size),
        ]
    )


def normalise(pixels: Tensor) -> Tensor:
    """Pixels `(..., 3, H, W)` uint8 to float32 of about mean 0 and deviation 1, as torchvision's weights expect."""
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (MEAN, STD))
    return pixels.float().sub_(255 * mean).div_(255 * std)
