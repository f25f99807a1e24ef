"""Sequences of images: in files, in memory, in bytes, and some or several of these."""

import copy
import hashlib
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from miniclip.data.image_content import decode, read_content
from miniclip.data.prefetch import Fetch
from miniclip.errors import UNREADABLE, BrokenImage

TAIL_BYTES = 4096
"""A sample of a file is so many of its last bytes."""

SAMPLE_STRIDE = 16
"""A sample of a decoded image is every so many-th pixel in both directions."""


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

    def size(self, index: int) -> Hashable | None:
        """What equal images have in common at least, known without reading one: bytes, or the shape.

        None where an image has nothing to be compared by, nor then a sample or a digest.
        """
        return self.num_bytes(index)

    def sample(self, index: int) -> Hashable | None:
        """A little of an image, which tells most of those of one size apart."""
        content = self.content(index)
        return None if content is None else content[-TAIL_BYTES:]

    def digest(self, index: int) -> Hashable | None:
        """What tells an image from any other: of its file, or of its pixels where it is decoded."""
        content = self.content(index)
        return None if content is None else _digest(content)


class ImageView(Images):
    """Images of other sequences, read there."""

    @abstractmethod
    def _place(self, index: int) -> tuple[Images, int]:
        """The sequence that holds an image, and where in it."""

    def __getitem__(self, index: int) -> Tensor:
        images, place = self._place(index)
        return images[place]

    def content(self, index: int) -> bytes | None:
        images, place = self._place(index)
        return images.content(place)

    def num_bytes(self, index: int) -> int | None:
        images, place = self._place(index)
        return images.num_bytes(place)

    def size(self, index: int) -> Hashable | None:
        images, place = self._place(index)
        return images.size(place)

    def sample(self, index: int) -> Hashable | None:
        images, place = self._place(index)
        return images.sample(place)

    def digest(self, index: int) -> Hashable | None:
        images, place = self._place(index)
        return images.digest(place)


class ImageSubset(ImageView):
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

    def _place(self, index: int) -> tuple[Images, int]:
        return self.images, int(self.chosen[index])


class ConcatImages(ImageView):
    """The images of several sequences, one sequence behind the other."""

    def __init__(self, sequences: Sequence[Images]):
        self.sequences = sequences
        self.ends = np.cumsum([len(images) for images in sequences])
        self.is_decoded = all(images.is_decoded for images in sequences)

    def __len__(self) -> int:
        return int(self.ends[-1])

    @property
    def identity(self) -> list[Any]:
        """What identifies the images of each sequence."""
        return [images.identity for images in self.sequences]

    def decoded_at(self, size: int) -> Images:
        return ConcatImages([images.decoded_at(size) for images in self.sequences])

    def _place(self, index: int) -> tuple[Images, int]:
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
        return size_and_time(self._path(index))[0] or None

    def sample(self, index: int) -> bytes:
        with open(self._path(index), "rb") as file:
            file.seek(-min(TAIL_BYTES, os.fstat(file.fileno()).st_size), os.SEEK_END)
            return file.read()

    def _path(self, index: int) -> Path:
        return self.root / self.names[index]

    @property
    def identity(self) -> list[tuple[int, int]]:
        """Size and time of change of each file, zeros for a missing one: equal files give an equal list."""
        return [size_and_time(self.root / name) for name in self.names]


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

    @cached_property
    def identity(self) -> Any:
        """A checksum of all encoded images."""
        checksum = 0
        for index in range(len(self)):
            checksum = zlib.crc32(buffer_of(self.encoded[index]), checksum)
        return checksum

    def num_bytes(self, index: int) -> int | None:
        return len(buffer_of(self.encoded[index])) or None

    def sample(self, index: int) -> bytes:
        return bytes(buffer_of(self.encoded[index])[-TAIL_BYTES:])

    def digest(self, index: int) -> bytes:
        return _digest(buffer_of(self.encoded[index]))

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

    def size(self, index: int) -> tuple[int, ...]:
        return self.pixels[index].shape

    def sample(self, index: int) -> bytes:
        return self.pixels[index, ::SAMPLE_STRIDE, ::SAMPLE_STRIDE].tobytes()

    def digest(self, index: int) -> bytes:
        return _digest(np.ascontiguousarray(self.pixels[index]).data)

    @cached_property
    def identity(self) -> str:
        """A digest of all pixels, for drawings of the same names may be others."""
        digest = hashlib.blake2b(repr(self.pixels.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self.pixels).data)
        return digest.hexdigest()


def buffer_of(content: Any) -> memoryview:
    """An encoded image, without a copy where it is an Arrow scalar; empty for a missing one."""
    if hasattr(content, "as_buffer"):
        content = content.as_buffer()
    return memoryview(b"" if content is None else content)


def is_readable_again(images: Images, problems: Mapping[int, tuple[str, str]]) -> bool:
    """Whether an image can be read by now of which a cache says that the system refused it.

    Args:
        problems: why images cannot be read, by their places: text and reason of a `BrokenImage`.
    """
    for place, (_, reason) in problems.items():
        if reason == UNREADABLE:
            with suppress(BrokenImage):
                _ = images[place]
                return True
    return False


def size_and_time(path: Path) -> tuple[int, int]:
    """Bytes of a file, and when it was changed in nanoseconds; zeros for a missing one."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
