"""Pictures in files, in memory and in bytes."""

import io
import stat
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import decode_jpeg

from miniclip.errors import BrokenImage

MAX_PIXELS = 100_000_000
"""More pixels than this in one picture are taken for a decompression bomb."""


class ImageFiles:
    """RGB pictures (3, H, W) uint8 read from `root` when asked for; see `decode`."""

    def __init__(self, root: Path, names: Sequence[str], *, decode_size: int):
        self.root = root
        self.names = names
        self.decode_size = decode_size

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        path = self.root / self.names[index]
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for without an end
                raise BrokenImage(f"The image {path} is no regular file.")
            content = path.read_bytes()
        except BrokenImage:
            raise
        except FileNotFoundError:
            raise BrokenImage(f"The image {path} is missing.", "missing") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BrokenImage(f"The image {str(path)!r} cannot be read ({reason}).") from None
        return decode(content, str(path), decode_size=self.decode_size)

    @property
    def identity(self) -> list[tuple[int, int]]:
        """Size and time of change of each file, zeros for a missing one: equal files give an equal list."""
        return [_size_and_time(self.root / name) for name in self.names]


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return 0, 0
    return found.st_size, found.st_mtime_ns


class ImageBytes:
    """RGB pictures (3, H, W) uint8 decoded from a sequence of encoded ones; see `decode`.

    Args:
        encoded: by its place each picture's file content, as bytes or as a scalar with `as_py()`, or None.
        names: how an error calls the pictures.
    """

    def __init__(self, encoded: Any, names: Sequence[str], *, decode_size: int):
        self.encoded = encoded
        self.names = names
        self.decode_size = decode_size

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        content = self._content(index)
        if content is None:
            raise BrokenImage(f"The image {self.names[index]} is missing.", "missing")
        return decode(content, self.names[index], decode_size=self.decode_size)

    @property
    def identity(self) -> int:
        """A checksum of all encoded pictures."""
        checksum = 0
        for index in range(len(self)):
            checksum = zlib.crc32(self._content(index) or b"", checksum)
        return checksum

    def _content(self, index: int) -> bytes | None:
        content = self.encoded[index]
        return content.as_py() if hasattr(content, "as_py") else content


class ImageArray:
    """RGB pictures held in one array `pixels` (N, H, W, 3), uint8."""

    is_decoded = True

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.pixels[index]).permute(2, 0, 1)


def decode(content: bytes, name: str, *, decode_size: int) -> Tensor:
    """Decode a picture as RGB (3, H, W) uint8, laid out pixel by pixel as torch's fast resize wants it.

    A JPEG is decoded at the smallest of the codec's own scales that still is `decode_size` pixels in both
    directions, which costs a fraction of the full decode. A camera's rotation is applied; transparent
    pixels become white; 16 bits become 8; of an animation the first frame is taken.

    Args:
        content: of the picture's file.
        name: how an error calls the picture.

    Raises:
        BrokenImage: when the picture is broken or has more than `MAX_PIXELS`; the text names it.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            whole = image.size
            if image.width * image.height > MAX_PIXELS:
                raise BrokenImage(
                    f"The image {name} has {image.width} x {image.height} pixels; more than "
                    f"{MAX_PIXELS:,} are taken for a decompression bomb. Scale it down or remove it.",
                    "too large",
                )
            image.draft("RGB", (decode_size, decode_size))
            upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            if image.format == "JPEG" and image.mode == "RGB" and image.size == whole and upright:
                with suppress(RuntimeError):  # Pillow decides what is broken, and says it better
                    return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))
            rgb = _as_rgb(ImageOps.exif_transpose(image))
            return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)
    except BrokenImage:
        raise
    except Image.DecompressionBombError as error:
        raise BrokenImage(f"The image {name} cannot be read ({error}).", "too large") from None
    except UnidentifiedImageError:
        raise BrokenImage(f"The file {name} is no image. Replace it or remove it.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise BrokenImage(f"The image {name} cannot be read ({error}). Replace it or remove it.") from None


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which convert("RGB") would clip at 255
        high = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(high.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        on_white = Image.new("RGBA", image.size, "white")
        on_white.alpha_composite(image.convert("RGBA"))
        return on_white.convert("RGB")
    return image.convert("RGB")
