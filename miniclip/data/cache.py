"""Decoded images in one file or in memory: each is decoded once and never again."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from miniclip.data.decoding import DecodedImage, decode_all
from miniclip.data.images import Images
from miniclip.data.split import Split
from miniclip.data.transforms import Crop
from miniclip.errors import BrokenImage, UserError

log = logging.getLogger(__name__)


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

        digest = hashlib.sha256(f"4 {size} {type(crop).__name__} {split.fingerprint()} ".encode())
        digest.update(repr(split.images.identity).encode())
        folder = self.folder / f"pixels-{digest.hexdigest()[:24]}"
        return cache_on_disk(split.images, folder, size=size, skips_broken=self.skips_broken, crop=crop)


class _Index(NamedTuple):
    """What a file of pixels holds.

    Attributes:
        shapes: height and width of each image; zeros for one that could not be read.
        problems: why it could not, by its place: text and reason of a `BrokenImage`.
        digests: see `DecodedImage`; 0 for an image that could not be read.
        checksum: crc32 of all pixels, and of what stands above.
    """

    shapes: list[tuple[int, int]]
    problems: dict[int, tuple[str, str]]
    digests: list[int]
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
            self.digests.append(0)
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
        self.pixels = _mapped(pixels) if isinstance(pixels, Path) else pixels
        self.problems = index.problems
        self.digests = index.digests
        self.shapes = np.array(index.shapes, dtype=np.int64).reshape(-1, 2)
        self.ends = np.cumsum(3 * self.shapes.prod(axis=1))

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Tensor:
        if index in self.problems:
            raise BrokenImage(*self.problems[index])
        height, width = self.shapes[index].tolist()
        start = int(self.ends[index]) - 3 * height * width
        # (3, H, W), of which a pixel's three values lie side by side
        return self.pixels.as_strided((3, height, width), (1, 3 * width, 3), start)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) if self.file is None else {**vars(self), "pixels": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.file is not None:
            self.pixels = _mapped(self.file)


def cache_in_memory(
    images: Images, *, size: int, skips_broken: bool, crop: Crop | None = None
) -> CachedImages:
    """Decode all images into memory that workers share.

    Args:
        size: of an image's shorter side, which is shrunk to it if it is longer.
        skips_broken: keep why an image cannot be read, instead of raising it.
        crop: one that draws nothing: keep just what it sees, at its `image_size`.
    """
    index = _Index([], {}, [])
    decoded: list[np.ndarray] = []
    for result in decode_all(images, size=size, skips_broken=skips_broken, crop=crop):
        decoded += index.add(result)

    pixels = torch.empty(sum(array.size for array in decoded), dtype=torch.uint8).share_memory_()
    end = 0
    for place, array in enumerate(decoded):
        pixels[end : end + array.size] = torch.from_numpy(array).flatten()
        end += array.size
        decoded[place] = array[:0].copy()  # so that not all is held twice
    return CachedImages(pixels, index)


def cache_on_disk(
    images: Images, folder: Path, *, size: int, skips_broken: bool, crop: Crop | None = None
) -> CachedImages:
    """Decode all images into a memory-mapped file in `folder`, which is read if it is there and whole.

    A folder appears whole or not at all; one that is damaged is thrown away and made anew.

    Args:
        size, skips_broken, crop: see `cache_in_memory`.

    Raises:
        UserError: when it cannot be written.
    """
    cached = _opened(folder, len(images))
    if cached is None:
        _write_whole(folder, decode_all(images, size=size, skips_broken=skips_broken, crop=crop))
        cached = _opened(folder, len(images))
    if cached is None:
        raise UserError(f"The cache {folder} cannot be read back. Is the disk full or broken?")
    return cached


def _write_whole(folder: Path, results: Iterable[DecodedImage | BrokenImage]) -> None:
    """Write a cache under another name beside `folder`, and rename it when it is complete.

    Raises:
        UserError: when it cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise unwritable(folder, error) from None

    try:
        _write(partial, results)
        os.rename(partial, folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        if not folder.is_dir():  # else another process was faster
            raise unwritable(folder, error) from None


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


def unwritable(path: Path, error: OSError) -> UserError:
    """What is told where a cache cannot be written."""
    return UserError(
        f"The cache {path} cannot be written ({error.strerror or error}). Make room, or choose another "
        "place: data.cache_dir=FOLDER"
    )


def _opened(folder: Path, num_images: int) -> CachedImages | None:
    """The cache in a folder; None where there is none, or a damaged one, which is removed."""
    if folder.is_symlink() or folder.is_file():  # nobody's cache; a link may lead anywhere
        log.warning("%s is no folder, and is replaced by the cache.", folder)
        folder.unlink()
    if not folder.is_dir():
        return None

    # in a function of its own, which has let go of the file by now: Windows removes none that is mapped
    cached = _read_whole(folder, num_images)
    if cached is None:
        log.warning("The cache %s is damaged and is made anew.", folder)
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


def _mapped(file: Path) -> Tensor:
    # copy on write: torch wants to be able to write
    return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="c"))
