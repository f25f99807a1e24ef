"""Decoding of image files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from miniclip.data.images import ImageArray, ImageFiles
from miniclip.data.transforms import Box, crop_and_resize


def test_a_jpeg_decoded_small_looks_like_the_whole_one(tmp_path: Path) -> None:
    gradient = Image.linear_gradient("L").resize((640, 480)).convert("RGB")
    gradient.save(tmp_path / "a.jpg", quality=95)
    small, whole = (ImageFiles(tmp_path, ["a.jpg"], decode_size=size)[0] for size in (64, 640))
    assert small.shape[2] < 640 == whole.shape[2]
    seen = [
        crop_and_resize(picture, Box(0, 0, *picture.shape[1:]), 32).float() for picture in (small, whole)
    ]
    torch.testing.assert_close(*seen, atol=3, rtol=0)


def test_drawings_are_identified_by_their_pixels() -> None:
    pixels = np.zeros((2, 4, 6, 3), dtype=np.uint8)
    identity = ImageArray(pixels).identity
    assert ImageArray(pixels.copy()).identity == identity
    assert ImageArray(pixels[:, :, ::-1]).identity == identity
    assert ImageArray(pixels.reshape(2, 6, 4, 3)).identity != identity
    pixels[1, 2, 3] = 1
    assert ImageArray(pixels).identity != identity
