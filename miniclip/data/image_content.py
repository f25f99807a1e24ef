"""The content of image files: read, and decoded to pixels."""

import io
import math
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from miniclip.errors import UNREADABLE, BrokenImage

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_SHOWN = 400
"""Letters of a path in an error."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF's orientation, what brings an image upright."""

MAX_PIXELS = 100_000_000
"""More pixels than this in one image are taken for a decompression bomb."""

MAX_SCANS = 100
"""So are more scans than this in one JPEG: a progressive one has ten, and each goes over all pixels."""

EVALUATED_SCALE = 0.5
"""Images that evaluation sees are decoded for crops of at least this fraction of their area. It is a
constant, so that no setting of training, nor a cache, changes what is measured."""

MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")
"""A marker in a JPEG's data, none of those that stand between its pixels."""

LOADING = [threading.Lock() for _ in range(61)]
"""Pillow loads an image's pixels when they are first needed, which one thread may do at a time: all that
use an image take the same of these, and most others another."""


def _release_locks() -> None:
    """Locks that no thread holds, in a process that was forked while one did."""
    LOADING[:] = [threading.Lock() for _ in LOADING]


if hasattr(os, "register_at_fork"):  # Windows forks nothing
    os.register_at_fork(after_in_child=_release_locks)

START_OF_SCAN, END_OF_IMAGE = b"\xda", b"\xd9"


def evaluated_size(image_size: int) -> int:
    """Shortest side at which evaluation decodes images of which the model sees `image_size` pixels.

    A model that is used decodes there too: otherwise it would see another image than was measured.
    """
    return math.ceil(image_size / math.sqrt(EVALUATED_SCALE))


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
        raise BrokenImage(f"The image {shown_path(path)} cannot be read ({reason}).", UNREADABLE) from None


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

        return pixels_of(upright_rgb(image))


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
            if image.format in ("JPEG", "MPO"):
                _check_scans(content, name)
            yield image
    except BrokenImage:
        raise
    except Image.DecompressionBombError as error:
        raise BrokenImage(f"The image {name} cannot be read ({error}).", "too large") from None
    except UnidentifiedImageError:
        raise BrokenImage(f"The file {name} is no image. Replace it or remove it.") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers of broken files raise nearly anything
        raise BrokenImage(f"The image {name} cannot be read ({error}). Replace it or remove it.") from None


def as_its_file(image: Image.Image, *, decode_size: int) -> Image.Image:
    """An image that a user opened, as `decode_without_torch` gives its file; see `upright_rgb`.

    A JPEG of which something is loaded or chosen already is taken as it is. Several threads may ask for
    the same image.

    Raises:
        BrokenImage: when it has no pixels, as an empty crop, or they cannot be read.
    """
    name = f"{getattr(image, 'filename', '')} ({image.mode}, {image.width} x {image.height})".strip()
    if image.width * image.height == 0:
        raise BrokenImage(f"The image {name} has no pixels.")
    try:
        with LOADING[id(image) % len(LOADING)]:
            return upright_rgb(_drafted(image, decode_size=decode_size))
    except MemoryError:
        raise
    except Exception as error:  # as `_opened` does
        raise BrokenImage(f"The image {name} cannot be read ({str(error) or repr(error)}).") from None


def _drafted(image: Image.Image, *, decode_size: int) -> Image.Image:
    """An image to be decoded at the scale that `decode` takes for its file.

    That is a JPEG of which nothing is loaded or chosen yet, opened once more: a draft changes the size of
    what it is made of, and the user's image keeps its own. Any other image is given back.
    """
    if not isinstance(image, JpegImageFile) or image.fp is None or not image.tile:
        return image
    if image.decoderconfig or image.tell() != 0:  # a scale or a frame was chosen
        return image

    again = Image.open(image.fp, formats=("JPEG",))
    again.draft("RGB", (decode_size, decode_size))
    # not that of the file, which the user may have changed
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    again.getexif()[ExifTags.Base.Orientation] = orientation
    return again


def pixels_of(image: Image.Image) -> "Tensor":
    """The pixels of an image in RGB, (3, H, W) uint8."""
    import torch

    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def upright_rgb(image: Image.Image) -> Image.Image:
    """An open image upright, on white, in 8 bits: its pixels alone, with nothing in `info`.

    What it gives is therefore not turned a second time. `image` itself stays as it is.

    Raises:
        ValueError: when its pixels are numbers that do not say which of them is white.
    """
    image.load()  # some formats write the orientation behind the pixels
    # not by ImageOps.exif_transpose, which writes all of EXIF anew and fails at odd entries
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    if orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[orientation])

    rgb = _rgb_on_white(image)
    rgb.info.clear()  # with EXIF or XMP in it, the next to look would turn the image again
    return rgb


def _rgb_on_white(image: Image.Image) -> Image.Image:
    """A new image in RGB, of one in any mode."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image), image.mode)).convert("RGB")

    if image.has_transparency_data:  # convert("RGB") would show what lies under it
        on_white = Image.new("RGBA", image.size, "white")
        on_white.alpha_composite(image.convert("RGBA"))
        return on_white.convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey values that convert("RGB") would clip at 255, as uint8.

    Args:
        mode: Pillow's; "I;16" and its kin have 16 bits, in "I" and "F" the values themselves tell.

    Raises:
        ValueError: when they are neither those of 8 nor of 16 bits.
    """
    low, high = values.min(), values.max()
    if mode not in ("I", "F") or (mode == "I" and low >= 0 and 255 < high <= 65_535):
        return (values >> 8).astype(np.uint8)
    if low >= 0 and high <= 255 and (high > 1 or high == 0):  # up to 1 white may be 1, or 255
        return values.astype(np.uint8)
    raise ValueError(f"its pixels are between {low:g} and {high:g}; save it with 8 or 16 bits")


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


def _check_scans(content: bytes, name: str) -> None:
    """Refuse a JPEG that is decoded for minutes.

    Raises:
        BrokenImage: when it has more than `MAX_SCANS`.
    """
    position, num_scans = len("\xff\xd8"), 0
    while (found := MARKER.search(content, position)) and found[1] != END_OF_IMAGE:
        num_scans += found[1] == START_OF_SCAN
        length = int.from_bytes(content[found.end() : found.end() + 2], "big")
        position = found.end() + length
        if num_scans > MAX_SCANS:
            raise BrokenImage(
                f"The image {name} has more than {MAX_SCANS} scans, which is taken for a decompression "
                "bomb. Save it anew or remove it.",
                "too large",
            )
