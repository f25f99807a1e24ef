"""From a picture to the normalised tensor a model reads."""

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def training_transform(
    image_size: int, *, crop_scale: tuple[float, float], flip: bool
) -> Callable[[Image.Image], Tensor]:
    """Random resized crop, a mirror image half the time if `flip`, normalised (3, S, S) float32."""
    steps: list[Callable] = [
        v2.RandomResizedCrop(image_size, scale=crop_scale, interpolation=v2.InterpolationMode.BICUBIC)
    ]
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose([*steps, *_to_tensor()])


def evaluation_transform(image_size: int) -> Callable[[Image.Image], Tensor]:
    """Shorter side to `image_size`, centre crop, normalised (3, S, S) float32."""
    return v2.Compose(
        [
            v2.Resize(image_size, interpolation=v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(image_size),
            *_to_tensor(),
        ]
    )


def _to_tensor() -> list[Callable]:
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
