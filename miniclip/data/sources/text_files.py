"""Files of text: UTF-8, or UTF-16 that says so, and nothing else by guessing."""

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from miniclip.errors import UserError

HEAD_BYTES = 4096
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A text file to read, with its line ends as they are.

    Raises:
        UserError: when it cannot be opened, or is neither UTF-8 nor UTF-16 with a byte order mark; the text
            names the line and the byte.
    """
    try:
        file = open(path, encoding=_encoding(path), newline="")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    with file:
        try:
            yield file
        except UnicodeDecodeError as error:
            raise _undecodable(path, error) from None


def read_text(path: Path) -> str:
    """The content of a text file.

    Raises:
        UserError: see `open_text`.
    """
    with open_text(path) as file:
        return file.read()


def lines_of(text: str) -> list[str]:
    """The lines of a text: `str.splitlines` also parts it at characters that captions may hold."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _encoding(path: Path) -> str:
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding
    if b"\0" in head:
        line = head[: head.index(b"\0")].count(b"\n") + 1
        raise UserError(
            f"{path}, line {line}: holds a NUL byte, so this is no UTF-8 text (UTF-16 without a byte order "
            "mark, or no text at all). Save it as UTF-8."
        )
    return "utf-8"


def _undecodable(path: Path, error: UnicodeDecodeError) -> UserError:
    """An error that names the place of the first byte that is no UTF-8; reads the file once more."""
    if _encoding(path) == "utf-16":
        return UserError(f"{path} begins like UTF-16 and goes on as something else. Save it as UTF-8.")

    # Line by line: a decoder that works in pieces counts from the piece, and the file may be large.
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as place:
                value = line[place.start]
                return UserError(
                    f"{path}, line {number}: byte {place.start + 1} (0x{value:02x}) is no UTF-8. Save the "
                    f"file as UTF-8; if it is Latin-1, say: iconv -f latin1 -t utf-8 '{path.name}' > NEW"
                )
    return UserError(f"{path} cannot be read as UTF-8 text ({error}).")
