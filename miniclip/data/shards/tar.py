"""Members of a tar file, found by their headers alone: what lies between them is not read."""

import os
import posixpath
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from miniclip.errors import UserError

BLOCK = 512
"""Bytes of a header; contents are filled up to a multiple of it."""

MOST_EXTENSION = 2**20
"""Bytes of an extended header, which holds a name; a longer one is taken for damage."""

MOST_DIGITS = 20
"""Of a number in an extended header."""

COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
"""How compressed files begin."""

END_MARK = bytes(BLOCK)

FILE_KINDS = (b"0", b"\0", b"7")
LONG_NAME = b"L"
LONG_LINK = b"K"
PAX = b"x"
PAX_OF_ALL = b"g"


class BadShard(UserError):
    """A shard is no tar file, or a damaged one; the text names it and the byte."""


class Member(NamedTuple):
    """A member of a tar file.

    Attributes:
        name: with / between folders.
        offset: first byte of its content.
        size: bytes of its content.
        is_file: whether it is a regular file, no link, folder or device.
    """

    name: str
    offset: int
    size: int
    is_file: bool

    @property
    def leads_out(self) -> bool:
        """Whether its name leads out of the folder that the tar would be unpacked in."""
        return self.name.startswith("/") or ".." in self.name.split("/")


class _Header(NamedTuple):
    name: str
    size: int
    kind: bytes


class _Damaged(ValueError):
    """A block is no header."""


def members(path: Path) -> Iterator[Member]:
    """The members of a tar file, in order.

    The end mark may be missing; whoever asks for it looks at `has_end_mark`.

    Raises:
        BadShard: when it is no tar file, is compressed, or is cut off within a member.
        OSError: when it cannot be read.
    """
    _check_regular(path)
    with open(path, "rb", buffering=0) as file:
        num_bytes = os.fstat(file.fileno()).st_size
        start, name, size = 0, None, None  # what an extended header says of the member behind it

        while (block := _read(file, start, BLOCK)) not in (END_MARK, b""):
            header = _header(block, path, start)
            offset = start + BLOCK
            start = offset + -(-header.size // BLOCK) * BLOCK
            if offset + header.size > num_bytes:
                raise _cut_off(path, header.name, offset + header.size, num_bytes)

            if header.kind in (LONG_NAME, PAX):
                content = _extension(file, path, offset, header.size)
                if header.kind == LONG_NAME:
                    name = _text(content)
                else:
                    name, size = _pax(content, path, offset, name)
                continue
            if header.kind in (LONG_LINK, PAX_OF_ALL):
                continue

            if size is not None and size != header.size:  # of 8 GiB and more, which no image has
                start = offset + -(-size // BLOCK) * BLOCK
            is_file = header.kind in FILE_KINDS
            yield Member(posixpath.normpath(name or header.name or "."), offset, header.size, is_file)
            name = size = None


def has_end_mark(path: Path, last: Member) -> bool:
    """Whether a tar file has its end mark behind the last member: one that was cut off there has none."""
    with open(path, "rb", buffering=0) as file:
        return _read(file, last.offset + -(-last.size // BLOCK) * BLOCK, BLOCK) == END_MARK


def size_in_header(block: bytes) -> int:
    """The size that a header gives its member, or -1 where the block is none."""
    try:
        return _number(block[124:136])
    except _Damaged:
        return -1


def _check_regular(path: Path) -> None:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for without an end
        raise BadShard(f"The shard {path} is no regular file.")


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)


def _header(block: bytes, path: Path, start: int) -> _Header:
    """What a header says.

    Raises:
        BadShard: when the block is none.
    """
    try:
        return _parsed(block)
    except _Damaged as error:
        if start > 0:
            raise BadShard(
                f"The shard {path} is damaged at byte {start:,} ({error}). Copy or download it again."
            ) from None

    packed = next((kind for head, kind in COMPRESSED.items() if block.startswith(head)), None)
    if packed is not None:
        raise BadShard(
            f"The shard {path} is compressed ({packed}), and cannot be read at any place. Unpack it: "
            "images are compressed already."
        )
    raise BadShard(f"The shard {path} is no tar file. Remove it, or name others with data.urls=...")


def _parsed(block: bytes) -> _Header:
    if len(block) < BLOCK:
        raise _Damaged("the file ends within a header")
    checksum = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if checksum != _number(block[148:156]):
        raise _Damaged("what stands there is no header")

    name = _text(block[:100])
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    kind = block[156:157]
    size = _number(block[124:136])
    return _Header(f"{prefix}/{name}" if prefix else name, size, kind)


def _number(field: bytes) -> int:
    """A number of a header: octal digits or, where it begins with a set bit, bytes."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b"\0 ")
    if not digits:
        return 0
    if not digits.isdigit() or max(digits) > ord("7"):
        raise _Damaged("a number in the header is none")
    return int(digits, 8)


def _text(field: bytes) -> str:
    """A text of a header, up to its first NUL."""
    return field.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _extension(file: BinaryIO, path: Path, offset: int, size: int) -> bytes:
    """The content of an extended header."""
    if size > MOST_EXTENSION:
        raise BadShard(f"The shard {path} is damaged at byte {offset:,} (a name of {size:,} bytes).")
    return _read(file, offset, size)


def _pax(content: bytes, path: Path, offset: int, name: str | None) -> tuple[str | None, int | None]:
    """Name and size that records `LENGTH KEY=VALUE` give the next member; None where they say nothing."""
    size = None
    while content:
        digits, _, _ = content.partition(b" ")
        is_number = digits.isdigit() and len(digits) < MOST_DIGITS
        if not is_number or not len(digits) < int(digits) <= len(content):
            raise BadShard(f"The shard {path} is damaged at byte {offset:,} (an extended header).")

        key, _, value = content[len(digits) + 1 : int(digits) - 1].partition(b"=")
        content = content[int(digits) :]
        if key == b"path":
            name = _text(value)
        elif key == b"size" and value.isdigit() and len(value) < MOST_DIGITS:
            size = int(value)
    return name, size


def _cut_off(path: Path, name: str, end: int, num_bytes: int) -> BadShard:
    return BadShard(
        f"The shard {path} is cut off: {name} reaches to byte {end:,}, and the file ends at {num_bytes:,}. "
        "Copy or download it again."
    )
