"""Small files out of a folder that may be a stranger's or damaged: read whole, and held against a shape."""

import io
import json
import os
import stat
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import yaml

from miniclip.errors import UserError
from miniclip.runs.shapes import Misshapen, Shape, check_shape

MOST_BYTES = 2**22
"""More than any of these files has."""

MOST_BYTES_OF_YAML = 2**19
"""The same of a config, which is read slowly: one of a Hugging Face model has some ten thousand."""

MOST_BYTES_OF_RECORDS = 2**30
"""Of a file of records, each of which is below `MOST_BYTES`: a million steps take a third."""

MOST_BYTES_OF_ARRAYS = 2**28
"""Of arrays in memory: ranks of ten million captions."""

PERHAPS_A_PIPE = getattr(os, "O_NONBLOCK", 0)
"""Opening a pipe that nobody writes into would wait for ever."""


class DamagedFile(UserError):
    """A file of a run directory or a sweep is not what it should be; names it and what is wrong."""


def damaged(path: Path, problem: object) -> DamagedFile:
    """An error that names a file and what is wrong with it."""
    first_line = str(problem).strip().partition("\n")[0]
    return DamagedFile(f"{path} is damaged ({first_line}).")


def read_bytes(path: Path, most_bytes: int) -> bytes | None:
    """The content of a file; None where there is none.

    Raises:
        DamagedFile: when it cannot be read, or is larger than any such file.
    """
    with _opened(path, most_bytes) as file:
        return None if file is None else file.read(most_bytes)


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str | None:
    """A text; None where there is no file.

    Raises:
        DamagedFile: see `read_bytes`; also when it is no UTF-8.
    """
    content = read_bytes(path, most_bytes)
    return None if content is None else _decoded(path, content)


def read_object(path: Path, shape: Shape) -> dict[str, Any]:
    """A JSON object; empty where there is no file.

    Raises:
        DamagedFile: when it cannot be read, or has another shape.
    """
    text = read_text(path)
    return {} if text is None else _parsed(path, text, shape)


def read_records(path: Path, shape: Shape) -> list[dict[str, Any]]:
    """The JSON objects in a file's lines; none where there is no file.

    A last line without an end is half a record, which a killed process has left, and is none.

    Raises:
        DamagedFile: when the file or a line cannot be read, or has another shape.
    """
    with _opened(path, MOST_BYTES_OF_RECORDS) as file:
        return [] if file is None else list(_records(path, file, shape))


def read_yaml(path: Path, shape: Shape) -> Any:
    """Plain data in YAML, of the shape.

    Raises:
        DamagedFile: when it is missing or cannot be read, has another shape, or anything but plain data.
    """
    text = read_text(path, MOST_BYTES_OF_YAML)
    if text is None:
        raise damaged(path, "it is missing")
    with _told(path):
        content = yaml.load(text, Loader=_PlainLoader)
        check_shape(content, shape)
    return content


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """Named arrays (N,) of numbers that are no fractions, out of a NumPy archive; None without a file.

    Raises:
        DamagedFile: when it cannot be read, lacks one of them, or would fill the memory.
    """
    content = read_bytes(path, MOST_BYTES_OF_ARRAYS)
    if content is None:
        return None

    try:
        return _arrays(content, names)
    except Exception as error:  # a damaged archive makes almost any of zipfile's, zlib's and NumPy's
        raise damaged(path, error or type(error).__name__) from None


@contextmanager
def _opened(path: Path, most_bytes: int) -> Iterator[BinaryIO | None]:
    """A regular file to read, or None; never a pipe or a device, which might wait or act when opened."""
    try:
        _check_regular(path, os.stat(path), most_bytes)
        with open(path, "rb", opener=_without_waiting) as file:
            _check_regular(path, os.fstat(file.fileno()), most_bytes)
            yield file
    except (FileNotFoundError, NotADirectoryError):
        yield None
    except OSError as error:
        raise damaged(path, f"it cannot be read: {error.strerror}") from None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | PERHAPS_A_PIPE)


def _check_regular(path: Path, found: os.stat_result, most_bytes: int) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise damaged(path, "a folder lies in its place")
    if not stat.S_ISREG(found.st_mode):
        raise damaged(path, "it is no regular file")
    if found.st_size > most_bytes:
        raise damaged(path, f"it has {found.st_size:,} bytes, no such file has over {most_bytes:,}")


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(path, f"byte {error.start + 1} is no UTF-8") from None


def _records(path: Path, file: BinaryIO, shape: Shape) -> Iterator[dict[str, Any]]:
    number = 0
    while line := file.readline(MOST_BYTES):
        number += 1
        if line.endswith(b"\n"):
            yield _parsed(path, _decoded(path, line), shape, line=f"line {number}: ")
        elif len(line) == MOST_BYTES:
            raise damaged(path, f"line {number} is no record")


def _parsed(path: Path, text: str, shape: Shape, line: str = "") -> dict[str, Any]:
    with _told(path, line):
        # older files hold NaN, which JSON has not
        content = json.loads(text, parse_constant=lambda name: None)
        check_shape(content, shape)
    return content


@contextmanager
def _told(path: Path, line: str = "") -> Iterator[None]:
    """Errors of a reader as one that names the file."""
    try:
        yield
    except RecursionError:
        raise damaged(path, f"{line}it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise damaged(path, f"{line}{' '.join(str(error).split())}") from None
    except ValueError as error:
        raise damaged(path, f"{line}{error}") from None


class _PlainLoader(yaml.SafeLoader):
    """YAML without references, of which a few lines can stand for more than fits into memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it refers to other places of itself")
        return super().compose_node(parent, index)


def _arrays(content: bytes, names: Sequence[str]) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        num_bytes = sum(member.file_size for member in archive.infolist())
    if num_bytes > MOST_BYTES_OF_ARRAYS:
        raise Misshapen(f"its arrays take {num_bytes:,} bytes")

    with np.load(io.BytesIO(content)) as archive, warnings.catch_warnings():
        warnings.simplefilter("error")  # of headers that no NumPy of today writes
        arrays = {name: archive[name] for name in names if name in archive.files}

    for name in names:
        if name not in arrays:
            raise Misshapen(f"{name} is missing")
        if arrays[name].ndim != 1 or arrays[name].dtype.kind not in "iu":
            raise Misshapen(f"{name} is no list of whole numbers")
    return arrays
