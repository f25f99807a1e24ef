"""The content of image files: read, and decoded to pixels."""

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from miniclip.errors import BrokenImage

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_SHOWN = 400
"""Letters of a path in an error."""

MAX_PIXELS = 100_000_000
"""More pixels than this in one image are taken for a decompression bomb."""


def read_content(path: Path) -> bytes:
    """The content of an image file.

    Raises:
        BrokenImage: when it is missing, is no regular file or cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for without an end
            raise BrokenImage(f"The image {shown_path(path)} is no regular file.")
        return path.read_bytes()
    except BrokenImage:
        raise
    except FileNotFoundError:
        raise BrokenImage(f"The image {shown_path(path)} is missing.", "missing") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BrokenImage(f"The image {shown_path(path)} cannot be read ({reason}).") from None


def shown_path(path: Path) -> str:
    """A path as an error shows it: in one line, and of a length that can be read."""
    text = str(path)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN // 2]}...{text[-50:]}"


def decode(content: bytes, name: str, *, decode_size: int) -> "Tensor":
    """Decode an image as RGB (3, H, W) uint8, laid out pixel by pixel as torch's fast resize wants it.

    A JPEG is decoded at the smallest of the codec's own scales that still is `decode_size` pixels in both
    directions, which costs a fraction of the full decode. A camera's rotation is applied; transparent
    pixels become white; 16 bits become 8; of an animation the first frame is taken.

    Args:
        content: of the image's file.
        name: how an error calls the image.
        decode_size: shortest side that a JPEG may be decoded at, pixels.

    Raises:
        BrokenImage: when the image is broken or has more than `MAX_PIXELS`; the text names it.
    """
    import torch
    from torchvision.io import decode_jpeg

    with _opened(content, name) as image:
        whole = image.size
        image.draft("RGB", (decode_size, decode_size))

        # torch's decoder is faster, and gives the same pixels where nothing else is to be done
        upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        if image.format == "JPEG" and image.mode == "RGB" and image.size == whole and upright:
            with suppress(RuntimeError):  # Pillow decides what is broken, and says it better
                return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))

        return pixels_of(image)


def decode_without_torch(content: bytes, name: str, *, decode_size: int) -> Image.Image:
    """Decode an image as an RGB image of Pillow; see `decode`, whose pixels it has."""
    with _opened(content, name) as image:
        image.draft("RGB", (decode_size, decode_size))
        return upright_rgb(image)


def format_of(content: bytes, name: str) -> str:
    """What Pillow calls the format of an image: "JPEG", "PNG".

    Raises:
        BrokenImage: when it is none that can be read, or has more than `MAX_PIXELS`.
    """
    with _opened(content, name) as image:
        return image.format or ""


@contextmanager
def _opened(content: bytes, name: str) -> Iterator[Image.Image]:
    """An image whose pixels are not decoded yet; what goes wrong here or later is a BrokenImage."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            _check_size(image, name)
            yield image
    except BrokenImage:
        raise
    except Image.DecompressionBombError as error:
        raise BrokenImage(f"The image {name} cannot be read ({error}).", "too large") from None
    except UnidentifiedImageError:
        raise BrokenImage(f"The file {name} is no image. Replace it or remove it.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise BrokenImage(f"The image {name} cannot be read ({error}). Replace it or remove it.") from None


def pixels_of(image: Image.Image) -> "Tensor":
    """The pixels of an open image, (3, H, W) uint8; see `upright_rgb`."""
    import torch

    return torch.from_numpy(np.array(upright_rgb(image))).permute(2, 0, 1)


def upright_rgb(image: Image.Image) -> Image.Image:
    """An open image upright, on white, in 8 bits."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits, which convert("RGB") would clip at 255
        high = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(high.clip(0, 255).astype(np.uint8)).convert("RGB")

    if image.has_transparency_data:  # convert("RGB") would show what lies under it
        on_white = Image.new("RGBA", image.size, "white")
        on_white.alpha_composite(image.convert("RGBA"))
        return on_white.convert("RGB")
    return image.convert("RGB")


def _check_size(image: Image.Image, name: str) -> None:
    """Refuse a decompression bomb before it is decoded.

    Raises:
        BrokenImage: when the image has more than `MAX_PIXELS`.
    """
    if image.width * image.height > MAX_PIXELS:
        raise BrokenImage(
            f"The image {name} has {image.width} x {image.height} pixels; more than "
            f"{MAX_PIXELS:,} are taken for a decompression bomb. Scale it down or remove it.",
            "too large",
        )
