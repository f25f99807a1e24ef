"""Shards of other machines with their indexes, and their files when they are read."""

import logging
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from miniclip.data.shards.cache import ShardCache, digest
from miniclip.data.shards.captions import CaptionReading
from miniclip.data.shards.index import ENDING, ShardIndex, Stamp
from miniclip.data.shards.opening import OpenedShard, fitting_index, keep_index, make_index
from miniclip.data.shards.remote import OutOfReach, facts_of, persistently

log = logging.getLogger(__name__)

NUM_THREADS = 8
"""That ask for facts and indexes at a time."""


class RemoteShard(NamedTuple):
    """A tar file of another machine.

    Attributes:
        name: its address.
        stamp: of the state that was indexed.
        cache: what fetches and keeps it.
    """

    name: str
    stamp: Stamp
    cache: ShardCache

    @property
    def is_remote(self) -> bool:
        return True

    def path(self) -> Path:
        return self.cache.path(self.name, self.stamp)

    def fetch_ahead(self, goes_on: Callable[[], bool]) -> None:
        self.cache.path(self.name, self.stamp, goes_on)


def open_remote(urls: Sequence[str], reading: CaptionReading, cache: ShardCache) -> list[OpenedShard]:
    """The shards at some addresses with their indexes.

    An index that lies beside its shard is fetched; where there is none the whole shard is, and indexed.

    Raises:
        UserError: when a shard is out of reach, no tar, or damaged.
    """
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        try:
            opened = threads.map(partial(_opened, reading=reading, cache=cache), urls)
            bar = tqdm(
                opened, total=len(urls), desc="remote shards", unit="shard", leave=False, disable=None
            )
            return list(bar)
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


def _opened(url: str, reading: CaptionReading, cache: ShardCache) -> OpenedShard:
    shard = RemoteShard(url, facts_of(url), cache)
    kept = cache.folder / "indexes" / f"{digest(url, shard.stamp)}{ENDING}"
    index = fitting_index(kept, shard.stamp, reading, url)
    if index is None:
        index = _fetched_index(shard, reading)
        if index is None:
            index = make_index(shard.path(), shard.stamp, reading)
        keep_index(index, [kept], shard.stamp, reading)
    return OpenedShard(shard, index)


def _fetched_index(shard: RemoteShard, reading: CaptionReading) -> ShardIndex | None:
    """The index beside a remote shard; None where there is none that fits."""
    try:
        content: bytes = persistently(f"{shard.name}{ENDING}", lambda system, path: system.cat_file(path))
    except OutOfReach as error:
        log.debug("%s", error)
        return None

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fetched"
        file.write_bytes(content)
        # tags are the server's own: whoever wrote the index did not know them
        return fitting_index(file, Stamp(shard.stamp.num_bytes, ""), reading, shard.name)
