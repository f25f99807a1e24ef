"""Decoding of image files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from miniclip.data.images import ConcatImages, ImageArray, ImageFiles, ImageSubset
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


def test_some_images_of_a_sequence_and_several_sequences_have_their_files(picture_folder: Path) -> None:
    """Equal traits are what tells images that lie in two parts."""
    files = ImageFiles(picture_folder, [f"{number}.jpg" for number in range(12)], decode_size=32)
    drawn = ImageArray(np.zeros((2, 20, 20, 3), dtype=np.uint8))
    both = ConcatImages([ImageSubset(files, np.array([5, 3])), drawn])
    assert both.content(1) == (picture_folder / "3.jpg").read_bytes() and both.content(2) is None
    assert both.num_bytes(1) == len(both.content(1) or b"") and both.num_bytes(2) is None
    for view, images, row in ((1, files, 3), (2, drawn, 0)):
        assert both.size(view) == images.size(row) is not None
        assert both.sample(view) == images.sample(row) is not None
        assert both.digest(view) == images.digest(row) is not None
    assert not both.is_decoded and ConcatImages([drawn, drawn]).is_decoded
