"""Decoded images in one file or in memory: each is decoded once and never again."""

import errno
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from miniclip.data.decoding import DecodedImage, decode_all
from miniclip.data.images import Images, is_readable_again
from miniclip.data.split import Split
from miniclip.data.transforms import Crop
from miniclip.data.whole_folder import fits_into_memory, sweep, whole_folder
from miniclip.errors import BrokenImage, UserError

log = logging.getLogger(__name__)

FORMAT = 5
"""Part of the name of every cache of pixels on disk: another one makes all of them anew."""

ASPECT = 1.5
"""The longer side of an image over its shorter one, where room is estimated: that of photographs."""


class Unwritable(UserError):
    """A cache cannot be written; says where else it could be."""

    def __init__(self, path: Path, error: OSError):
        super().__init__(
            f"The cache {path} cannot be written ({error.strerror or error}). Make room, or choose another "
            "place: data.cache_dir=FOLDER."
        )


class PixelCache:
    """Keeps the decoded images of splits.

    Args:
        kind: "none" keeps nothing, "memory" and "disk" decode all images of a split once.
        folder: where "disk" keeps them.
        skips_broken: keep why an image cannot be read, instead of raising it.
    """

    def __init__(self, kind: Literal["none", "memory", "disk"], folder: Path, *, skips_broken: bool):
        self.kind = kind
        self.folder = folder
        self.skips_broken = skips_broken

    def keep(self, split: Split, *, size: int, crop: Crop | None = None) -> Images:
        """The split's images as they are to be read.

        Args:
            size: of an image's shorter side, which is shrunk to it if it is longer.
            crop: one that draws nothing: keep just what it sees, at its `image_size`.
        """
        if self.kind == "none" or len(split) == 0:
            return split.images
        if self.kind == "memory":
            return cache_in_memory(split.images, size=size, skips_broken=self.skips_broken, crop=crop)

        folder = self._folder_of(split, size=size, crop=crop)
        try:
            return cache_on_disk(split.images, folder, size=size, skips_broken=self.skips_broken, crop=crop)
        except Unwritable as error:
            return self._keep_elsewhere(split, error, size=size, crop=crop)

    def _folder_of(self, split: Split, *, size: int, crop: Crop | None) -> Path:
        """Where the split's images are kept; other images of the same names have another place."""
        digest = hashlib.sha256(f"{FORMAT} {size} {type(crop).__name__} {split.fingerprint()} ".encode())
        digest.update(repr(split.images.identity).encode())
        return self.folder / f"pixels-{digest.hexdigest()[:24]}"

    def _keep_elsewhere(self, split: Split, error: "Unwritable", *, size: int, crop: Crop | None) -> Images:
        """The images in memory, if they fit, where the disk does not take them; else as they are."""
        about = 3 * size * size * len(split) * (ASPECT if crop is None else 1)
        if fits_into_memory(about):
            log.warning("%s Images of %s are kept in memory instead.", error, split.name)
            return cache_in_memory(split.images, size=size, skips_broken=self.skips_broken, crop=crop)

        log.warning(
            "%s Images of %s, about %.1f GB, do not fit into memory either, and are decoded each time.",
            error,
            split.name,
            about / 1e9,
        )
        return split.images


class _Index(NamedTuple):
    """What a file of pixels holds.

    Attributes:
        shapes: height and width of each image; zeros for one that could not be read.
        problems: why it could not, by its place: text and reason of a `BrokenImage`.
        digests: see `DecodedImage`; "" for an image that could not be read.
        checksum: crc32 of all pixels, and of what stands above.
    """

    shapes: list[tuple[int, int]]
    problems: dict[int, tuple[str, str]]
    digests: list[str]
    checksum: int = 0

    def sealed(self, checksum_of_pixels: int) -> "_Index":
        """The index with its checksum."""
        content = json.dumps(self._replace(checksum=0))
        return self._replace(checksum=zlib.crc32(content.encode(), checksum_of_pixels))

    def add(self, result: DecodedImage | BrokenImage) -> list[np.ndarray]:
        """Enter an image. Returns its pixels (H, W, 3), if it has any."""
        if isinstance(result, BrokenImage):
            self.problems[len(self.shapes)] = str(result), result.reason
            self.shapes.append((0, 0))
            self.digests.append("")
            return []

        height, width = result.pixels.shape[:2]
        self.shapes.append((height, width))
        self.digests.append(result.digest)
        return [result.pixels]


class CachedImages(Images):
    """RGB images (3, H, W) uint8, one behind the other in one array of pixels, row by row.

    Args:
        pixels: (bytes,) uint8, or the file that holds them, which each process maps for itself.
    """

    is_decoded = True

    def __init__(self, pixels: Tensor | Path, index: _Index):
        self.file = pixels if isinstance(pixels, Path) else None
        self.mapping = None if self.file is None else _mapped(self.file)
        self.pixels = pixels if isinstance(pixels, Tensor) else _as_tensor(self.mapping)
        self.problems = index.problems
        self.digests = index.digests
        self.shapes = np.array(index.shapes, dtype=np.int64).reshape(-1, 2)
        self.ends = np.cumsum(3 * self.shapes.prod(axis=1))

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Tensor:
        if index in self.problems:
            raise BrokenImage(*self.problems[index])
        self._check_length()
        height, width = self.shapes[index].tolist()
        start = int(self.ends[index]) - 3 * height * width
        # (3, H, W), of which a pixel's three values lie side by side
        return self.pixels.as_strided((3, height, width), (1, 3 * width, 3), start)

    def size(self, index: int) -> str | None:
        """The digest, which is that of the image as it was decoded."""
        return self.digests[index] or None

    sample = digest = size

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) if self.file is None else {**vars(self), "mapping": None, "pixels": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.file is not None:
            self.mapping = _mapped(self.file)
            self.pixels = _as_tensor(self.mapping)

    def _check_length(self) -> None:
        """Look at the file before its pixels: to read what has been cut off ends a process at once.

        Raises:
            OSError: when the file was cut since it was opened.
        """
        if self.mapping is not None and self.mapping.size() < len(self.mapping):
            raise OSError(errno.EIO, "it was cut while it was read", str(self.file))


def cache_in_memory(
    images: Images, *, size: int, skips_broken: bool, crop: Crop | None = None
) -> CachedImages:
    """Decode all images into memory, which holds each once: also those that were decoded so far.

    Args:
        size: of an image's shorter side, which is shrunk to it if it is longer.
        skips_broken: keep why an image cannot be read, instead of raising it.
        crop: one that draws nothing: keep just what it sees, at its `image_size`.
    """
    index = _Index([], {}, [])
    pixels = bytearray()  # grows in place, so that no image is copied to join the others
    for result in decode_all(images, size=size, skips_broken=skips_broken, crop=crop):
        for decoded in index.add(result):
            pixels += decoded.data
    return CachedImages(torch.from_numpy(np.frombuffer(pixels, dtype=np.uint8)), index)


def cache_on_disk(
    images: Images, folder: Path, *, size: int, skips_broken: bool, crop: Crop | None = None
) -> CachedImages:
    """Decode all images into a memory-mapped file in `folder`, which is read if it is there and whole.

    A folder appears whole or not at all; one that is damaged is thrown away and made anew, and so is one
    without an image that could not be read and now can.

    Args:
        size, skips_broken, crop: see `cache_in_memory`.

    Raises:
        Unwritable: when the disk does not take it, or takes something else.
    """
    sweep(folder.parent)
    cached = _opened(folder, images)
    if cached is None:
        _write_whole(folder, decode_all(images, size=size, skips_broken=skips_broken, crop=crop))
        # as it is: an image that could not be read a moment ago is tried again by the next run
        cached = _read_whole(folder, len(images))
    if cached is None:
        raise Unwritable(folder, OSError("what was written cannot be read back"))
    return cached


def _write_whole(folder: Path, results: Iterable[DecodedImage | BrokenImage]) -> None:
    """Write a cache under another name beside `folder`, and rename it when it is complete.

    Raises:
        Unwritable: when the disk does not take it.
    """
    with _unwritable_told(folder), whole_folder(folder) as partial:
        _write(partial, results)


@contextmanager
def _unwritable_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unwritable(folder, error) from None


def _write(folder: Path, results: Iterable[DecodedImage | BrokenImage]) -> None:
    index, checksum = _Index([], {}, []), 0
    with open(folder / "pixels.bin", "wb") as file:
        for result in results:
            for pixels in index.add(result):
                checksum = zlib.crc32(pixels.data, checksum)
                file.write(pixels.data)
        file.flush()
        os.fsync(file.fileno())
    (folder / "index.json").write_text(json.dumps(index.sealed(checksum)._asdict()))


def _opened(folder: Path, images: Images) -> CachedImages | None:
    """The cache in a folder; None where there is none, or a damaged one, which is removed."""
    if folder.is_symlink() or folder.is_file():  # nobody's cache; a link may lead anywhere
        log.warning("%s is no folder, and is replaced by the cache.", folder)
        with _unwritable_told(folder):
            folder.unlink()
    if not folder.is_dir():
        return None

    # in a function of its own, which has let go of the file by now: Windows removes none that is mapped
    cached = _read_whole(folder, len(images))
    if cached is None:
        log.warning("The cache %s is damaged and is made anew.", folder)
    elif is_readable_again(images, cached.problems):
        log.warning("The cache %s lacks images that can be read by now, and is made anew.", folder)
        cached = None
    if cached is None:
        with _unwritable_told(folder):
            shutil.rmtree(folder)
    return cached


def _read_whole(folder: Path, num_images: int) -> CachedImages | None:
    """The cache in a folder; None where it is damaged."""
    try:
        index = _read_index(folder)
        cached = CachedImages(folder / "pixels.bin", index)
        sealed = index.sealed(zlib.crc32(cached.pixels.numpy().data))

        is_complete = len(cached) == num_images and len(cached.pixels) == cached.ends[-1]
        is_unchanged = sealed.checksum == index.checksum and bool((cached.shapes >= 0).all())
        return cached if is_complete and is_unchanged else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.debug("%s: %s", folder, error)
        return None


def _read_index(folder: Path) -> _Index:
    content = json.loads((folder / "index.json").read_text())
    # JSON has no tuples, and its keys are texts
    problems = {int(place): (text, reason) for place, (text, reason) in content["problems"].items()}
    shapes = [(height, width) for height, width in content["shapes"]]
    return _Index(shapes, problems, content["digests"], content["checksum"])


def _mapped(file: Path) -> mmap:
    # copy on write: torch wants to be able to write
    with open(file, "rb") as content:
        return mmap(content.fileno(), 0, access=ACCESS_COPY)


def _as_tensor(mapping: mmap | None) -> Tensor:
    assert mapping is not None
    return torch.frombuffer(mapping, dtype=torch.uint8)
