"""Remote shards on this machine: fetched whole into a folder whose size is limited."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from miniclip.data.shards.index import Stamp
from miniclip.data.shards.remote import give_up_or_wait, piece
from miniclip.disk_errors import naming
from miniclip.errors import SettingError
from miniclip.files import is_locked, locked, partial_path, replace

MOST_BYTES = 2**24
"""Asked for at a time; a quarter after each failure, twice as much after each success."""

FEWEST_BYTES = 2**16

LOCKS = "locks"


class ShardCache(NamedTuple):
    """A folder of fetched shards, which any number of processes share.

    Attributes:
        folder: where they lie.
        max_bytes: what all of them may take; None does not limit it. The one whose last use is longest ago
            is removed first.
    """

    folder: Path
    max_bytes: int | None

    def path(self, url: str, stamp: Stamp, goes_on: Callable[[], bool] | None = None) -> Path:
        """A shard as a file, which is fetched where it is not at hand.

        Args:
            goes_on: see `fetch`.

        Raises:
            CalledOff: see `fetch`.
            SettingError: when the shard alone is larger than the cache.
            UserError: when it cannot be fetched.
        """
        file = self.folder / f"{digest(url, stamp)}-{PurePosixPath(url).name[-60:]}"
        with self._held(file):
            if not _is_whole(file, stamp):
                self._make_room(stamp.num_bytes, url, file)
                fetch(url, stamp.num_bytes, file, goes_on)
                self._make_room(stamp.num_bytes, url, file)  # another process may have fetched meanwhile
            with suppress(FileNotFoundError):  # gone already; whoever opens it asks again
                os.utime(file)
        return file

    def _make_room(self, num_bytes: int, url: str, file: Path) -> None:
        """Remove the files whose last use is longest ago, until all others leave room for this one."""
        if self.max_bytes is None:
            return
        if num_bytes > self.max_bytes:
            allowed = f"is less than the shard {url} takes, {num_bytes / 1e9:.3g} GB"
            raise SettingError("max_cache_gb", self.max_bytes / 1e9, allowed)

        with self._held(self.folder / "room"):
            own = file, partial_path(file)
            others = [(other, size) for other, size in self._files_by_last_use() if other not in own]
            total = num_bytes + sum(size for _, size in others)
            for other, size in others:
                if total <= self.max_bytes:
                    break
                if not is_locked(self._lock_of(other)):  # a process fetches it, or looks for it
                    with suppress(OSError):  # Windows keeps what is open
                        other.unlink()
                        total -= size

    def _files_by_last_use(self) -> list[tuple[Path, int]]:
        """The files of shards, whole or not, with their sizes."""
        found = []
        for file in self.folder.iterdir():
            with suppress(FileNotFoundError):
                state = file.stat()
                if file.is_file():
                    found.append((state.st_mtime_ns, file, state.st_size))
        return [(file, size) for _, file, size in sorted(found)]

    def _lock_of(self, file: Path) -> Path:
        name = file.name.removeprefix(".").removesuffix(".partial")
        return self.folder / LOCKS / f"{name}.lock"

    @contextmanager
    def _held(self, file: Path) -> Iterator[None]:
        lock = self._lock_of(file)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock, wait_seconds=-1):
            yield


class CalledOff(Exception):
    """A file is not fetched ahead any further."""


def fetch(url: str, num_bytes: int, target: Path, goes_on: Callable[[], bool] | None = None) -> None:
    """Fetch a file, which appears whole, from where a dropped connection or a killed process left off.

    Args:
        goes_on: whether one that nobody waits for is still wanted; it is tried once only.

    Raises:
        CalledOff: when it is not, or the try fails.
        OutOfReach: when several tries in a row brought nothing.
        OSError: when it cannot be written.
    """
    partial = partial_path(target)
    asked, failures = MOST_BYTES, 0

    with naming(target, partial), open(partial, "ab") as file:
        if file.tell() > num_bytes:
            file.truncate(0)
        while (start := file.seek(0, os.SEEK_END)) < num_bytes:
            if goes_on is not None and not goes_on():
                raise CalledOff
            try:
                content = piece(url, start, min(start + asked, num_bytes))
                if not content:
                    raise ConnectionError("it ends early")
            except Exception as error:  # the packages below share no type
                if goes_on is not None:
                    raise CalledOff from error
                failures += 1
                give_up_or_wait(url, error, failures)
                asked = max(FEWEST_BYTES, asked // 4)
                continue

            file.write(content)
            asked, failures = min(MOST_BYTES, 2 * asked), 0
        file.flush()
        os.fsync(file.fileno())
    replace(partial, target)


def digest(url: str, stamp: Stamp) -> str:
    """A name for a state of a remote file."""
    return hashlib.sha256(f"{url} {stamp.num_bytes} {stamp.change}".encode()).hexdigest()[:24]


def _is_whole(file: Path, stamp: Stamp) -> bool:
    try:
        return file.stat().st_size == stamp.num_bytes
    except FileNotFoundError:
        return False
