"""Images that come in and go out: decoded before they are trusted."""

import io
from typing import NamedTuple

from PIL import Image

from miniclip.data.image_content import decode_without_torch
from miniclip.errors import BrokenImage

BROWSERS_SHOW = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "WEBP": "image/webp",
}
"""Media types of the formats that go out as they are."""

ACCEPTED = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
"""Formats that are taken from anyone; others, like EPS, may start a program of their own."""

TELLS_NOTHING = {
    *("adobe", "adobe_transform", "jfif", "jfif_density", "jfif_unit", "jfif_version"),
    *("progression", "progressive", "interlace", "extension", "version", "background", "transparency"),
    *("chromaticity", "dpi", "gamma", "icc_profile", "srgb", "duration", "loop", "timestamp"),
}
"""What a file may hold beside the pixels that goes out with them: how they are shown, not where they were
taken, when and by whom."""

THUMBNAIL_SIZE = 320
"""Longer side, pixels."""


class Picture(NamedTuple):
    """An image for a browser."""

    content: bytes
    media_type: str


def decode_upload(content: bytes, *, decode_size: int) -> Image.Image:
    """Decode an image that anyone may have sent; see `decode_without_torch`.

    Raises:
        BrokenImage: when it is broken, too large, or of a format that is not accepted.
    """
    name = "of the query"
    try:
        if _format_of(content) is None:
            raise BrokenImage(f"The file {name} is no image. Send one of: {', '.join(ACCEPTED)}.")
        return decode_without_torch(content, name, decode_size=decode_size)
    except BrokenImage:
        raise
    except Image.DecompressionBombError as error:
        raise BrokenImage(f"The image {name} cannot be read ({error}).", "too large") from None
    except Exception as error:  # decoders meet hostile files with errors of every kind
        raise BrokenImage(f"The image {name} is broken ({type(error).__name__}). Send another.") from None


def thumbnail(content: bytes, name: str) -> Picture:
    """A small JPEG of an image's file.

    Raises:
        BrokenImage: when it is none.
    """
    image = decode_without_torch(content, name, decode_size=THUMBNAIL_SIZE)
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    return _as_jpeg(image)


def original(content: bytes, name: str) -> Picture:
    """An image's file as it is, or as an upright JPEG of its pixels alone.

    That is where browsers do not show its format, and where the file holds more than pixels, such as the
    place and the time of a photo (EXIF), comments or texts.

    Raises:
        BrokenImage: when it is none.
    """
    whole = decode_without_torch(content, name, decode_size=2**16)  # which refuses what is no image
    media_type = BROWSERS_SHOW.get(_format_of(content) or "")
    if media_type is None or _tells_more(content):
        return _as_jpeg(whole)
    return Picture(content, media_type)


def _tells_more(content: bytes) -> bool:
    """Whether an image's file holds more than what it shows."""
    with Image.open(io.BytesIO(content), formats=ACCEPTED) as image:
        if image.format == "PNG":
            image.load()  # it may have texts behind its pixels
        return not image.info.keys() <= TELLS_NOTHING or bool(image.getexif())


def _format_of(content: bytes) -> str | None:
    """Pillow's name of the format; None when it is not accepted."""
    try:
        with Image.open(io.BytesIO(content), formats=ACCEPTED) as image:
            return image.format
    except OSError:
        return None


def _as_jpeg(image: Image.Image) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=88)
    return Picture(buffer.getvalue(), "image/jpeg")
