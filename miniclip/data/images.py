"""Pictures in files and pictures in memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from miniclip.errors import UserError


class ImageFiles:
    """RGB pictures read from `root` when asked for.

    A JPEG is decoded at the smallest of the codec's own scales that still is `decode_size` pixels in
    both directions, which costs a fraction of the full decode.

    Raises (on reading):
        UserError: when a file is missing or broken; the text names it.
    """

    def __init__(self, root: Path, names: Sequence[str], *, decode_size: int):
        self.root = root
        self.names = names
        self.decode_size = decode_size

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        path = self.root / self.names[index]
        try:
            with Image.open(path) as image:
                image.draft("RGB", (self.decode_size, self.decode_size))
                return as_pixels(ImageOps.exif_transpose(image).convert("RGB"))
        except FileNotFoundError:
            raise UserError(f"The image {path} is missing.") from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(
                f"The image {path} cannot be read ({error}). Replace it or remove it."
            ) from None


class ImageArray:
    """RGB pictures held in one array `pixels` (N, H, W, 3), uint8."""

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.pixels[index]).permute(2, 0, 1)


def as_pixels(image: Image.Image) -> Tensor:
    """An RGB picture as uint8 (3, H, W), laid out pixel by pixel as torch's fast resize wants it."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
