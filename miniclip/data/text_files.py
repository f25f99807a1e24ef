"""Text files as users have them: UTF-8 or UTF-16, with or without a byte order mark."""

import codecs
from pathlib import Path

from miniclip.errors import UserError

UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 where its byte order mark says so.

    Raises:
        UserError: when the file is in neither, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None

    encoding = "utf-16" if content.startswith(UTF_16_MARKS) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} cannot be read as UTF-8 or UTF-16 text ({error.reason} at byte {error.start}). Save "
            "it as UTF-8."
        ) from None
