"""The index of a shard: where each image lies in the tar file, and its captions."""

import json
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from miniclip.data.shards.captions import CaptionReading
from miniclip.data.shards.tar import BLOCK
from miniclip.data.text_arrays import StringArray, StringListArray
from miniclip.disk_errors import naming
from miniclip.files import replace

log = logging.getLogger(__name__)

VERSION = "3"
"""Of the file's layout and of what is indexed; a file of another version is made anew."""

ENDING = ".index"


class Stamp(NamedTuple):
    """What tells one state of a shard from another.

    Attributes:
        num_bytes: of the tar file.
        change: time of its last change in nanoseconds, or a remote file's tag.
    """

    num_bytes: int
    change: str

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """The stamp of a local file."""
        found = path.stat()
        return cls(found.st_size, str(found.st_mtime_ns))


class ShardIndex(NamedTuple):
    """The whole samples of a shard, in the order of their first members.

    Attributes:
        keys: by sample what stands before the first dot of its members' names.
        offsets, sizes: (N,) int64, where its encoded image lies in the tar file, bytes.
        captions: by sample its captions, at least one.
        labels: by sample its class, "" where there is none.
        left_out: by reason, how many samples were left out and the first of them.
    """

    keys: StringArray
    offsets: np.ndarray
    sizes: np.ndarray
    captions: StringListArray
    labels: StringArray
    left_out: dict[str, tuple[int, str]]

    def __len__(self) -> int:
        return len(self.offsets)


class Unfit(ValueError):
    """A file of an index is damaged, or is that of another tar file; the text says why."""


def write_index(index: ShardIndex, path: Path, stamp: Stamp, reading: CaptionReading) -> None:
    """Write an index into a file that appears whole or not at all, whoever else writes it at the same time.

    Raises:
        OSError: when it cannot be written.
    """
    content = _packed(index, stamp, reading)
    with naming(path):
        handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(partial, 0o644)  # a temporary file is for its owner alone
            replace(Path(partial), path)
        except BaseException:
            with suppress(OSError):
                os.unlink(partial)
            raise


def read_index(path: Path, stamp: Stamp, reading: CaptionReading) -> ShardIndex | None:
    """The index in a file; None where there is none, or one of an earlier state or of another reading.

    Args:
        stamp: of the tar file; an empty change fits any.

    Raises:
        Unfit: when it is damaged, or would read outside the tar file.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            facts = file.metadata() or {}
            if not _is_of(facts, stamp, reading):
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        index = _unpacked(arrays, facts)
    except (
        OSError,
        SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        log.debug("%s: %s", path, error)
        raise Unfit("it is damaged") from None
    _check(index, stamp.num_bytes)
    return index


def _packed(index: ShardIndex, stamp: Stamp, reading: CaptionReading) -> bytes:
    """The content of an index's file: flat arrays, and texts as pieces of UTF-8."""
    captions = index.captions.strings
    arrays = {
        "offsets": index.offsets,
        "sizes": index.sizes,
        "keys": np.frombuffer(index.keys.encoded, dtype=np.uint8),
        "key_ends": index.keys.ends,
        "captions": np.frombuffer(captions.encoded, dtype=np.uint8),
        "caption_ends": captions.ends,
        "list_ends": index.captions.ends,
        "labels": np.frombuffer(index.labels.encoded, dtype=np.uint8),
        "label_ends": index.labels.ends,
    }
    facts = {
        "format": "index of a tar shard",
        "version": VERSION,
        "num_bytes": str(stamp.num_bytes),
        "change": stamp.change,
        "reading": json.dumps(reading),
        "left_out": json.dumps(index.left_out),
    }
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, facts)


def _is_of(facts: dict[str, str], stamp: Stamp, reading: CaptionReading) -> bool:
    """Whether an index is of this layout, this state of the tar file and this reading of captions."""
    return (
        facts.get("version") == VERSION
        and facts.get("num_bytes") == str(stamp.num_bytes)
        and stamp.change in ("", facts.get("change"))
        and facts.get("reading") == json.dumps(reading)
    )


def _unpacked(arrays: dict[str, np.ndarray], facts: dict[str, str]) -> ShardIndex:
    """The index in the arrays of a file, whose every text and place is within bounds.

    Raises:
        ValueError: when it is not.
    """
    keys = _strings(arrays["keys"], arrays["key_ends"])
    labels = _strings(arrays["labels"], arrays["label_ends"])
    strings = _strings(arrays["captions"], arrays["caption_ends"])
    list_ends = _ends(arrays["list_ends"], len(strings))
    captions = StringListArray(strings, _starts(list_ends), list_ends)

    offsets, sizes = (_whole_numbers(arrays[name]) for name in ("offsets", "sizes"))
    sizes_fit = len({len(part) for part in (keys, captions, labels, offsets, sizes)}) == 1
    if not sizes_fit or (captions.counts < 1).any():
        raise ValueError("its parts do not fit each other")
    left_out = {
        str(reason): (int(count), str(first))
        for reason, (count, first) in json.loads(facts["left_out"]).items()
    }
    return ShardIndex(keys, offsets, sizes, captions, labels, left_out)


def _strings(encoded: np.ndarray, ends: np.ndarray) -> StringArray:
    content = encoded.astype(np.uint8, casting="safe")
    ends = _ends(ends, len(content))
    starts = _starts(ends)

    # no string begins within a letter, so that each can be decoded alone
    content.tobytes().decode("utf-8", "surrogatepass")
    first_bytes = content[starts[starts < len(content)]]
    if (first_bytes & 0xC0 == 0x80).any():
        raise ValueError("a text begins within a letter")
    return StringArray(content.tobytes(), starts, ends)


def _ends(ends: np.ndarray, total: int) -> np.ndarray:
    ends = _whole_numbers(ends)
    starts = _starts(ends)
    if (ends < starts).any() or (starts < 0).any() or (ends[-1] if len(ends) else 0) != total:
        raise ValueError("its parts do not fit each other")
    return ends


def _starts(ends: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(min(1, len(ends)), dtype=np.int64), ends[:-1]])


def _whole_numbers(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.int64 or array.ndim != 1:
        raise ValueError("an array is of another kind")
    return array


def _check(index: ShardIndex, num_bytes: int) -> None:
    """Hold the places of images against the size of the tar file.

    Raises:
        Unfit: when one lies outside.
    """
    # sizes first, so that no sum of two large numbers turns negative
    sizes_fit = (index.sizes >= 0) & (index.sizes <= num_bytes)
    fits = sizes_fit & (index.offsets >= BLOCK) & (index.offsets <= num_bytes - index.sizes)
    if not fits.all():
        key = index.keys[int(np.argmin(fits))]
        raise Unfit(f"it names bytes outside the file for {key}")
