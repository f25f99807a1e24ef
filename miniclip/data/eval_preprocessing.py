"""Preprocessing of evaluation: from an image to what a model sees, with a state that checkpoints keep."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from miniclip.data.image_content import as_its_file, decode, evaluated_size, pixels_of, read_content
from miniclip.data.transforms import CenterCrop, Crop, SquashResize, crop_and_resize, normalize
from miniclip.errors import SettingError, UserError
from miniclip.preprocessing import IMAGENET, Preprocessing
from miniclip.renamed import VALUES

CROPS: dict[str, type[CenterCrop | SquashResize]] = {"squash": SquashResize, "center": CenterCrop}


class EvalPreprocessing:
    """Crop, resize and normalize an image as evaluation does.

    `image (PIL, or (3, H, W) uint8) -> (3, image_size, image_size)` float32, on the CPU. All images are
    normalized by `MEAN` and `STD`; an image tower whose weights saw others goes on from there to its own.
    A JPEG that Pillow has opened and not loaded is decoded as its file is; see `as_its_file`.

    Args:
        image_size: side of the result, pixels.
        crop: "squash" squeezes the whole image into a square, "center" takes the largest one in the middle.
        trained_with: how the images looked that the image tower's weights were trained with.

    Raises:
        SettingError: when there is no such crop.
    """

    def __init__(self, image_size: int, *, crop: str, trained_with: Preprocessing = IMAGENET):
        if crop not in CROPS:
            raise SettingError("eval_crop", crop, "must be squash or center")
        self.image_size = image_size
        self.crop_name = crop
        self.crop: Crop = CROPS[crop](image_size)
        self.trained_with = trained_with

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        if isinstance(image, Image.Image):
            decode_size = evaluated_size(self.image_size)
            image = pixels_of(as_its_file(image, decode_size=decode_size))  # (3, H, W)
        height, width = image.shape[1:]
        # these crops draw nothing
        box = self.crop.box(height, width, torch.Generator())
        pixels = crop_and_resize(image, box, self.image_size)  # (3, S, S)
        return normalize(pixels[None])[0]

    def read(self, path: Path) -> Tensor:
        """What a model sees of an image file, (3, image_size, image_size) float32.

        Raises:
            BrokenImage: when it cannot be read.
        """
        decode_size = evaluated_size(self.image_size)
        return self(decode(read_content(path), str(path), decode_size=decode_size))

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        trained_with = self.trained_with._asdict()
        return {
            "image_size": self.image_size,
            "eval_crop": self.crop_name,
            **trained_with,
            "mean": list(self.trained_with.mean),
            "std": list(self.trained_with.std),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "EvalPreprocessing":
        """The preprocessing of a `state`, also of one with former names of crops.

        Raises:
            UserError: when it holds anything else.
        """
        crop, image_size = state.get("eval_crop"), state.get("image_size")
        if isinstance(crop, str):
            crop = VALUES["data.eval_crop"].get(crop, crop)
        if crop not in tuple(CROPS) or type(image_size) is not int or image_size < 1:
            raise UserError(f"the preprocessing {crop!r} to {image_size!r} pixels is none of ours")

        trained_with = Preprocessing(
            mean=tuple(state["mean"]),
            std=tuple(state["std"]),
            interpolation=state.get("interpolation"),
            crop_fraction=state.get("crop_fraction"),
        )
        return cls(image_size, crop=crop, trained_with=trained_with)
