"""Small data sets of the twelve pictures of `picture_folder`, and image files of one color."""

import io
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from miniclip.data.dataset import ImageTextDataset
from miniclip.data.images import ImageFiles
from miniclip.data.split import Split
from miniclip.data.transforms import CenterCrop, RandomResizedCrop


def twelve_images(folder: Path, *, random: bool = True) -> ImageTextDataset:
    """Twelve images with five captions each; crops and captions are drawn, or the same every time."""
    names = [f"{index}.jpg" for index in range(12)]
    captions = [[f"{index}, caption {number}" for number in range(5)] for index in range(12)]
    split = Split("train", names, ImageFiles(folder, names, decode_size=64), captions)
    crop = RandomResizedCrop(32, crop_scale=(0.5, 1.0), flip=True) if random else CenterCrop(32)
    return ImageTextDataset(split, crop, seed=3, captions="random" if random else "first")


RED = Image.new("RGB", (40, 30), (255, 0, 0))

LYING = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""By EXIF's orientation, how the pixels of an upright image lie in its file."""


def encoded(image: Image.Image = RED, kind: str = "JPEG", **options: Any) -> bytes:
    """The content of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def lying(image: Image.Image, kind: str = "PNG", *, orientation: int = 6, **options: Any) -> bytes:
    """The content of an image file that a viewer turns by its EXIF, after which it shows `image`."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encoded(image.transpose(LYING[orientation]), kind, exif=exif, **options)
