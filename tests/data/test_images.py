"""Decoding of image files."""

from pathlib import Path

import torch
from PIL import Image

from miniclip.data.images import ImageFiles
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
