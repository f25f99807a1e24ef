"""Pages of a Parquet file, by their own headers: the footer's sizes are whatever its writer says.

A page is decompressed into as many bytes as its header says and refused where that is wrong, so that these
are the bytes that it takes. The headers are structs of Thrift's compact protocol.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from miniclip.errors import UserError

DICTIONARY = 2
"""The kind of a page that holds each value of a chunk once."""

MOST_LEVELS = 8
"""How deep a header may hold others; of Parquet's it is three."""

STOP, TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 12
WHOLE_NUMBERS = (4, 5, 6)
"""Types of Thrift's values: 16, 32 and 64 bits."""


class Page(NamedTuple):
    """What a page's header says.

    Attributes:
        kind: 0 or 3 of values, 1 of an index, `DICTIONARY`.
        num_bytes: unpacked.
        packed_bytes: in the file, without the header.
    """

    kind: int
    num_bytes: int
    packed_bytes: int


def pages_of(path: Path, chunk: Any) -> Iterator[Page]:
    """The pages of a column chunk, as pyarrow's metadata describe it.

    Raises:
        UserError: when a header cannot be read.
    """
    starts = (chunk.dictionary_page_offset, chunk.data_page_offset)
    start = min(offset for offset in starts if offset)  # 0 is none
    end = start + chunk.total_compressed_size
    try:
        with open(path, "rb") as file:
            file.seek(start)
            while file.tell() < end:
                page = _page(file)
                yield page
                file.seek(page.packed_bytes, os.SEEK_CUR)
    except (EOFError, KeyError, ValueError) as error:
        raise UserError(f"{path}: the column {chunk.path_in_schema} is damaged ({error!r}).") from None


def _page(file: BinaryIO) -> Page:
    found = {field: _value(file, kind) for field, kind in _fields(file)}
    page = Page(found[1], found[2], found[3])
    if min(page) < 0:
        raise ValueError("a size below 0")
    return page


def _fields(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Number and type of each field of a struct, whose value is to be read before the next."""
    number = 0
    while (head := _byte(file)) != STOP:
        step, kind = divmod(head, 16)
        number = number + step if step else _whole_number(file)
        yield number, kind


def _value(file: BinaryIO, kind: int, level: int = 0) -> int:
    """A whole number; of any other value 0, and the file stands behind it."""
    if level > MOST_LEVELS:
        raise ValueError("a header without an end")
    if kind in WHOLE_NUMBERS:
        return _whole_number(file)

    if kind in (BYTE, DOUBLE):
        file.seek(1 if kind == BYTE else 8, os.SEEK_CUR)
    elif kind == BINARY:
        file.seek(_varint(file), os.SEEK_CUR)
    elif kind in (LIST, SET):
        count, inner = divmod(_byte(file), 16)
        for _ in range(_varint(file) if count == 15 else count):
            _value(file, inner, level + 1)
    elif kind == STRUCT:
        for _, inner in _fields(file):
            _value(file, inner, level + 1)
    elif kind not in (TRUE, FALSE):
        raise ValueError(f"a value of type {kind}")
    return 0


def _whole_number(file: BinaryIO) -> int:
    number = _varint(file)
    return (number >> 1) ^ -(number & 1)


def _varint(file: BinaryIO) -> int:
    number = 0
    for place in range(0, 70, 7):
        byte = _byte(file)
        number |= (byte & 127) << place
        if byte < 128:
            return number
    raise ValueError("a number without an end")


def _byte(file: BinaryIO) -> int:
    byte = file.read(1)
    if not byte:
        raise EOFError("it is cut")
    return byte[0]
