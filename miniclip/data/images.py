"""Sequences of images: in files, in memory, in bytes, and some or several of these."""

import copy
import hashlib
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from miniclip.data.image_content import decode, read_content
from miniclip.data.prefetch import Fetch
from miniclip.errors import BrokenImage


class Windows(NamedTuple):
    """Files of many images each, of which an epoch mixes a few at a time.

    Attributes:
        file_of: (N,) whole numbers, which file holds each image.
        num_files: how many are mixed at a time.
        fetch: brings one of them onto this machine; None where all are there.
    """

    file_of: np.ndarray
    num_files: int
    fetch: Fetch | None = None


class Images(ABC):
    """A sequence of RGB images (3, H, W) uint8 that are read one at a time."""

    is_decoded: bool = False
    """Whether the pixels lie in memory, or on disk as they will in memory."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Tensor: ...

    @property
    def identity(self) -> Any:
        """What tells these images from others that have the same names; None where names suffice."""
        return None

    @property
    def windows(self) -> Windows | None:
        """What of the images an epoch mixes at a time; None where it mixes all."""
        return None

    def decoded_at(self, size: int) -> "Images":
        """The same images, which may be decoded at a shortest side of `size`, where that can be chosen."""
        return self

    def content(self, index: int) -> bytes | None:
        """The content of an image's file; None where it has none, as pixels in an array.

        Raises:
            BrokenImage: when there should be one.
        """
        return None

    def num_bytes(self, index: int) -> int | None:
        """Bytes of the content; None where there is none, or finding out may cost a transfer."""
        return None

    def origin(self, index: int) -> tuple["Images", int]:
        """The sequence that reads an image, below all subsets and joints, and where in it."""
        return self, index


class ImageSubset(Images):
    """Some of the images of a sequence.

    Args:
        images: all of them.
        chosen: (N,) int64, their places.
    """

    def __init__(self, images: Images, chosen: np.ndarray):
        self.images = images
        self.chosen = chosen
        self.is_decoded = images.is_decoded

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[int(self.chosen[index])]

    @property
    def identity(self) -> tuple[Any, bytes]:
        """What identifies the images, and which of them."""
        return self.images.identity, self.chosen.tobytes()

    @property
    def windows(self) -> Windows | None:
        windows = self.images.windows
        return None if windows is None else windows._replace(file_of=windows.file_of[self.chosen])

    def decoded_at(self, size: int) -> Images:
        return ImageSubset(self.images.decoded_at(size), self.chosen)

    def origin(self, index: int) -> tuple[Images, int]:
        return self.images.origin(int(self.chosen[index]))


class ConcatImages(Images):
    """The images of several sequences, one sequence behind the other."""

    def __init__(self, sequences: Sequence[Images]):
        self.sequences = sequences
        self.ends = np.cumsum([len(images) for images in sequences])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Tensor:
        images, place = self._place(index)
        return images[place]

    @property
    def identity(self) -> list[Any]:
        """What identifies the images of each sequence."""
        return [images.identity for images in self.sequences]

    def decoded_at(self, size: int) -> Images:
        return ConcatImages([images.decoded_at(size) for images in self.sequences])

    def origin(self, index: int) -> tuple[Images, int]:
        images, place = self._place(index)
        return images.origin(place)

    def _place(self, index: int) -> tuple[Images, int]:
        """The sequence that holds an image, and where in it."""
        # empty sequences end where the one before them does, and are passed over
        number = int(np.searchsorted(self.ends, index, side="right"))
        images = self.sequences[number]
        return images, index - int(self.ends[number]) + len(images)


class OnDemandImages(Images):
    """Images that are decoded when they are asked for; see `decode`.

    Args:
        names: how an error calls the images.
        decode_size: shortest side that an image may be decoded at, pixels.
    """

    def __init__(self, names: Sequence[str], *, decode_size: int):
        self.names = names
        self.decode_size = decode_size

    def __len__(self) -> int:
        return len(self.names)

    def decoded_at(self, size: int) -> Images:
        images = copy.copy(self)
        images.decode_size = size
        return images


class ImageFiles(OnDemandImages):
    """RGB images (3, H, W) uint8 read from files below a folder.

    Args:
        root: the folder.
        names: of the files, relative to it.
        decode_size: see `OnDemandImages`.
    """

    def __init__(self, root: Path, names: Sequence[str], *, decode_size: int):
        super().__init__(names, decode_size=decode_size)
        self.root = root

    def __getitem__(self, index: int) -> Tensor:
        return decode(self.content(index), str(self._path(index)), decode_size=self.decode_size)

    def content(self, index: int) -> bytes:
        return read_content(self._path(index))

    def num_bytes(self, index: int) -> int | None:
        return _size_and_time(self._path(index))[0] or None

    def _path(self, index: int) -> Path:
        return self.root / self.names[index]

    @property
    def identity(self) -> list[tuple[int, int]]:
        """Size and time of change of each file, zeros for a missing one: equal files give an equal list."""
        return [_size_and_time(self.root / name) for name in self.names]


class ImageBytes(OnDemandImages):
    """RGB images (3, H, W) uint8 decoded from a sequence of encoded ones.

    Args:
        encoded: by its place each image's file content, as bytes or as a scalar with `as_py()`, or None.
        names, decode_size: see `OnDemandImages`.
    """

    def __init__(self, encoded: Any, names: Sequence[str], *, decode_size: int):
        super().__init__(names, decode_size=decode_size)
        self.encoded = encoded

    def __getitem__(self, index: int) -> Tensor:
        return decode(self.content(index), self.names[index], decode_size=self.decode_size)

    def content(self, index: int) -> bytes:
        content = self._content(index)
        if content is None:
            raise BrokenImage(f"The image {self.names[index]} is missing.", "missing")
        return content

    @property
    def identity(self) -> int:
        """A checksum of all encoded images."""
        checksum = 0
        for index in range(len(self)):
            checksum = zlib.crc32(self._content(index) or b"", checksum)
        return checksum

    def num_bytes(self, index: int) -> int | None:
        content = self.encoded[index]
        if hasattr(content, "as_buffer"):  # an Arrow scalar, which need not be copied
            content = content.as_buffer()
        return None if content is None else len(memoryview(content))

    def _content(self, index: int) -> bytes | None:
        content = self.encoded[index]
        return content.as_py() if hasattr(content, "as_py") else content  # an Arrow scalar


class ImageArray(Images):
    """RGB images held in one array.

    Args:
        pixels: (N, H, W, 3) uint8.
    """

    is_decoded = True

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.pixels[index]).permute(2, 0, 1)  # (3, H, W)

    @cached_property
    def identity(self) -> str:
        """A digest of all pixels, for drawings of the same names may be others."""
        digest = hashlib.blake2b(repr(self.pixels.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self.pixels).data)
        return digest.hexdigest()


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return 0, 0
    return found.st_size, found.st_mtime_ns
