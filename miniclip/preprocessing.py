"""How images are normalized before a model sees them: data and models agree on it here."""

from typing import NamedTuple

MEAN = (0.485, 0.456, 0.406)
"""ImageNet's mean of each channel, of pixels between 0 and 1: what the data layer subtracts."""

STD = (0.229, 0.224, 0.225)
"""ImageNet's standard deviation of each channel, by which it divides."""


class Preprocessing(NamedTuple):
    """How the images looked that an image tower's weights were trained with.

    Attributes:
        mean, std: per channel, of pixels between 0 and 1.
        interpolation: of the resize, such as "bicubic"; None where the weights are random.
        crop_fraction: side of the center crop over that of the resized image; None likewise.
    """

    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    interpolation: str | None = None
    crop_fraction: float | None = None


IMAGENET = Preprocessing()
"""What images look like that no weights ask to be otherwise."""
