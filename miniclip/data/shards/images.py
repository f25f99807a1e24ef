"""Images that lie in tar files, each read where it lies."""

import os
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from miniclip.data.images import ImageBytes, Windows
from miniclip.data.shards.index import Stamp
from miniclip.data.shards.tar import BLOCK, size_in_header
from miniclip.errors import UserError

MOST_OPEN = 128
"""Files that a process keeps open; systems allow 256 or more."""


class Shard(Hashable, Protocol):
    """A tar file that is at hand, or becomes so when it is asked for."""

    @property
    def name(self) -> str:
        """Its path or address, as errors show it."""

    @property
    def stamp(self) -> Stamp:
        """The state that was indexed."""

    @property
    def is_remote(self) -> bool:
        """Whether reading it may cost a transfer."""

    def path(self) -> Path:
        """Where it lies on this machine now."""

    def fetch_ahead(self, goes_on: Callable[[], bool]) -> None:
        """Bring it onto this machine, unless that fails or is called off."""


class LocalShard(NamedTuple):
    """A tar file of this machine.

    Attributes:
        name: its path, as errors show it.
        stamp: of the state that was indexed.
    """

    name: str
    stamp: Stamp

    @property
    def is_remote(self) -> bool:
        return False

    def path(self) -> Path:
        return Path(self.name)

    def fetch_ahead(self, goes_on: Callable[[], bool]) -> None:
        """It is at hand."""


class TarContents:
    """Encoded images by their places in several tar files.

    Args:
        shards: the files.
        shard_of: (N,) int32, which of them holds each image.
        offsets, sizes: (N,) int64, where it lies there, bytes.
    """

    def __init__(
        self, shards: Sequence[Shard], shard_of: np.ndarray, offsets: np.ndarray, sizes: np.ndarray
    ):
        self.shards = shards
        self.shard_of = shard_of
        self.offsets = offsets
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> bytes:
        shard = self.shards[self.shard_of[index]]
        offset, size = int(self.offsets[index]), int(self.sizes[index])

        # its header comes along, which tells whether this still is the file that was indexed
        block = _read(shard, offset - BLOCK, BLOCK + size)
        if len(block) != BLOCK + size or size_in_header(block[:BLOCK]) != size:
            raise UserError(
                f"The shard {shard.name} has changed since it was indexed: at byte {offset:,} lies no "
                f"image of {size:,} bytes any more. Start again, which indexes it anew."
            )
        return block[BLOCK:]


class ShardImages(ImageBytes):
    """RGB images (3, H, W) uint8 decoded from tar files.

    Args:
        contents: the encoded images.
        names, decode_size: see `OnDemandImages`.
        shuffle_window: how many shards an epoch mixes at a time; None is all.
        fetches_ahead: whether those of the next window are fetched while the current one is read.
    """

    encoded: TarContents

    def __init__(
        self,
        contents: TarContents,
        names: Sequence[str],
        *,
        decode_size: int,
        shuffle_window: int | None = None,
        fetches_ahead: bool = False,
    ):
        super().__init__(contents, names, decode_size=decode_size)
        self.fetches_ahead = fetches_ahead
        self.shuffle_window = shuffle_window

    @property
    def identity(self) -> Any:
        """The states of the files, and where in them the images lie."""
        stamps = [shard.stamp for shard in self.encoded.shards]
        return stamps, self.encoded.shard_of.tobytes(), self.encoded.offsets.tobytes()

    @property
    def windows(self) -> Windows | None:
        if self.shuffle_window is None:
            return None
        fetch = self._fetch_ahead if self.fetches_ahead else None
        return Windows(self.encoded.shard_of, self.shuffle_window, fetch)

    def _fetch_ahead(self, shard: int, goes_on: Callable[[], bool]) -> None:
        self.encoded.shards[shard].fetch_ahead(goes_on)

    def num_bytes(self, index: int) -> int | None:
        shard = self.encoded.shards[self.encoded.shard_of[index]]
        return None if shard.is_remote else int(self.encoded.sizes[index])


def _read(shard: Shard, offset: int, size: int) -> bytes:
    try:
        return _open_files.of(shard).read(offset, size)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"The shard {shard.name} cannot be read ({reason}).") from None


class _OpenFile:
    """A file that is read at any place by any thread; it is closed when nobody holds it any more."""

    def __init__(self, path: Path):
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY) if hasattr(os, "pread") else None

    @property
    def is_removed(self) -> bool:
        """Whether the file has no name any more."""
        return self.descriptor is not None and os.fstat(self.descriptor).st_nlink == 0

    def read(self, offset: int, size: int) -> bytes:
        # no process or thread moves a place in the file that another one reads at
        if self.descriptor is not None:
            return os.pread(self.descriptor, size, offset)
        with open(self.path, "rb", buffering=0) as file:
            file.seek(offset)
            return file.read(size)

    def __del__(self) -> None:
        descriptor = getattr(self, "descriptor", None)
        if descriptor is not None:
            os.close(descriptor)


class _OpenFiles:
    """The files of shards that this process has open, at most `MOST_OPEN`; any thread may ask for them.

    Those that a fork inherits are the same ones, which does no harm: nobody moves a place in them.
    """

    def __init__(self) -> None:
        self.files: dict[Shard, _OpenFile] = {}

    def of(self, shard: Shard) -> _OpenFile:
        """The file of a shard, opened if it is not."""
        file = self.files.get(shard)
        if file is None:
            self._let_go()
            file = self.files[shard] = _newly_opened(shard)
        return file

    def _let_go(self) -> None:
        """Let go of files that a cache has removed, which take room until then, and of the oldest."""
        for shard, file in list(self.files.items()):
            if file.is_removed or len(self.files) >= MOST_OPEN:
                self.files.pop(shard, None)


_open_files = _OpenFiles()


def _newly_opened(shard: Shard) -> _OpenFile:
    try:
        return _OpenFile(shard.path())
    except FileNotFoundError:  # another process has just made room in the cache for others
        return _OpenFile(shard.path())
