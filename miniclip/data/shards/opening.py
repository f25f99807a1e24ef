"""Shards of this machine with their indexes: read where they lie, made where they are missing."""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from miniclip.data.shards.captions import CaptionReading
from miniclip.data.shards.images import LocalShard, Shard
from miniclip.data.shards.index import ENDING, ShardIndex, Stamp, Unfit, read_index, write_index
from miniclip.data.shards.indexing import index_tar
from miniclip.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedShard:
    """A shard with its index."""

    shard: Shard
    index: ShardIndex


def open_local(paths: Sequence[str], reading: CaptionReading, *, folder: Path) -> list[OpenedShard]:
    """The shards of this machine with their indexes.

    Args:
        folder: where an index is kept if it cannot lie beside its shard.

    Raises:
        UserError: when a shard is no tar, is damaged or cannot be read.
    """
    bar = tqdm(paths, desc="indexes of shards", unit="shard", leave=False, disable=None)
    return [OpenedShard(*_opened(path, reading, folder)) for path in bar]


def make_index(path: Path, stamp: Stamp, reading: CaptionReading) -> ShardIndex:
    """Index a shard anew; see `index_tar`.

    Raises:
        UserError: when it is no tar, is damaged or cannot be read.
    """
    try:
        return index_tar(path, reading)
    except OSError as error:
        raise _unreadable(path, error) from None


def stamp_of(path: Path) -> Stamp:
    """The stamp of a shard of this machine.

    Raises:
        UserError: when it cannot be read.
    """
    try:
        return Stamp.of(path)
    except OSError as error:
        raise _unreadable(path, error) from None


def beside(path: Path) -> Path:
    """Where the index of a shard lies."""
    return path.with_name(f"{path.name}{ENDING}")


def fitting_index(file: Path, stamp: Stamp, reading: CaptionReading, shard: str) -> ShardIndex | None:
    """The index in a file, if it is one of this state of the shard; a damaged one is told."""
    try:
        return read_index(file, stamp, reading)
    except Unfit as error:
        log.warning("The index %s does not fit the shard %s: %s. It is made anew.", file, shard, error)
        return None


def keep_index(index: ShardIndex, places: Sequence[Path], stamp: Stamp, reading: CaptionReading) -> None:
    """Write an index to the first of the places that can be written."""
    errors = []
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_index(index, place, stamp, reading)
        except OSError as error:
            errors.append(error)
        else:
            return
    log.warning(
        "The index %s cannot be kept (%s), and is made in each run.", places[0], errors[-1].strerror
    )


def _opened(path: str, reading: CaptionReading, folder: Path) -> tuple[LocalShard, ShardIndex]:
    stamp = stamp_of(Path(path))
    places = beside(Path(path)), folder / f"{_digest(path)}{ENDING}"
    for place in places:
        found = fitting_index(place, stamp, reading, path)
        if found is not None:
            return LocalShard(path, stamp), found

    index = make_index(Path(path), stamp, reading)
    keep_index(index, places, stamp, reading)
    return LocalShard(path, stamp), index


def _digest(path: str) -> str:
    return hashlib.sha256(os.path.realpath(path).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"The shard {path} cannot be read ({error.strerror or error}).")
