"""Decoded pictures in one file or in memory: each is decoded once and never again."""

import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

from miniclip.data.dataset import Images
from miniclip.errors import BrokenImage, UserError

log = logging.getLogger(__name__)

READ_AHEAD = 256
"""Pictures in the decoder's hands at a time."""


class _Index(NamedTuple):
    """What a file of pixels holds.

    Attributes:
        shapes: height and width of each picture; zeros for one that could not be read.
        problems: why it could not, by its place: text and reason of a `BrokenImage`.
        checksum: crc32 of all pixels.
    """

    shapes: list[tuple[int, int]]
    problems: dict[int, tuple[str, str]]
    checksum: int


class CachedImages:
    """RGB pictures (3, H, W) uint8, one behind the other in one array of pixels, row by row.

    Args:
        pixels: (bytes,) uint8, or the file that holds them, which each process maps for itself.
    """

    is_decoded = True

    def __init__(self, pixels: Tensor | Path, index: _Index):
        self.file = pixels if isinstance(pixels, Path) else None
        self.pixels = _mapped(pixels) if isinstance(pixels, Path) else pixels
        self.problems = index.problems
        self.shapes = np.array(index.shapes, dtype=np.int64).reshape(-1, 2)
        self.ends = np.cumsum(3 * self.shapes.prod(axis=1))

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Tensor:
        if index in self.problems:
            raise BrokenImage(*self.problems[index])
        height, width = self.shapes[index].tolist()
        start = int(self.ends[index]) - 3 * height * width
        return self.pixels.as_strided((3, height, width), (1, 3 * width, 3), start)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) if self.file is None else {**vars(self), "pixels": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.file is not None:
            self.pixels = _mapped(self.file)


def cache_in_memory(images: Images, *, size: int, skips_broken: bool) -> CachedImages:
    """Decode all pictures, shrunk to a shorter side of `size`, into memory that workers share."""
    decoded, shapes, problems = [], [], {}
    for place, result in enumerate(_decoded(images, size, skips_broken=skips_broken)):
        shapes.append((0, 0) if isinstance(result, BrokenImage) else result.shape[:2])
        if isinstance(result, BrokenImage):
            problems[place] = str(result), result.reason
        else:
            decoded.append(result)
    pixels = torch.empty(sum(array.size for array in decoded), dtype=torch.uint8).share_memory_()
    end = 0
    for place, array in enumerate(decoded):
        pixels[end : end + array.size] = torch.from_numpy(array).flatten()
        end += array.size
        decoded[place] = array[:0].copy()  # so that not all is held twice
    return CachedImages(pixels, _Index(shapes, problems, checksum=0))


def cache_on_disk(images: Images, folder: Path, *, size: int, skips_broken: bool) -> CachedImages:
    """The same in a memory-mapped file in `folder`, which is read if it is there and whole.

    A folder appears whole or not at all; one that is damaged is thrown away and made anew.
    """
    cached = _opened(folder, len(images))
    if cached is not None:
        return cached
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        shapes, problems, checksum = [], {}, 0
        with open(partial / "pixels.bin", "wb") as file:
            for place, result in enumerate(_decoded(images, size, skips_broken=skips_broken)):
                shapes.append((0, 0) if isinstance(result, BrokenImage) else result.shape[:2])
                if isinstance(result, BrokenImage):
                    problems[place] = str(result), result.reason
                else:
                    checksum = zlib.crc32(result.data, checksum)
                    file.write(result.data)
            file.flush()
            os.fsync(file.fileno())
        (partial / "index.json").write_text(json.dumps(_Index(shapes, problems, checksum)._asdict()))
        os.rename(partial, folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not (isinstance(error, OSError) and folder.is_dir()):  # another process was faster
            raise
    cached = _opened(folder, len(images))
    if cached is None:
        raise UserError(f"The cache {folder} cannot be read back. Is the disk full or broken?")
    return cached


def _opened(folder: Path, num_images: int) -> CachedImages | None:
    """The cache in a folder; None where there is none, or a damaged one, which is removed."""
    if not folder.is_dir():
        return None
    try:
        content = json.loads((folder / "index.json").read_text())
        problems = {int(place): (text, reason) for place, (text, reason) in content["problems"].items()}
        index = _Index([(h, w) for h, w in content["shapes"]], problems, content["checksum"])
        cached = CachedImages(folder / "pixels.bin", index)
        checksum = zlib.crc32(cached.pixels.numpy().data)
        if (
            len(cached) == num_images
            and len(cached.pixels) == cached.ends[-1]
            and checksum == index.checksum
        ):
            return cached
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.debug("%s: %s", folder, error)
    log.warning("The cache %s is damaged and is made anew.", folder)
    shutil.rmtree(folder)
    return None


def _mapped(file: Path) -> Tensor:
    # copy on write: torch wants to be able to write
    return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="c"))


def _decoded(images: Images, size: int, *, skips_broken: bool) -> Iterator[np.ndarray | BrokenImage]:
    """Each picture (H, W, 3) uint8 in order, or why it could not be read; decoded by several threads."""

    def decode(place: int) -> np.ndarray | BrokenImage:
        try:
            picture = images[place]
        except BrokenImage as error:
            if not skips_broken:
                raise
            return error
        if min(picture.shape[1:]) > size:
            picture = F.resize(picture, [size], InterpolationMode.BICUBIC)
        return picture.permute(1, 2, 0).contiguous().numpy()

    num_images = len(images)
    bar = tqdm(total=num_images, desc="decoding", unit="img", leave=False, disable=None)
    with bar, ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, num_images, READ_AHEAD):
            places = range(start, min(start + READ_AHEAD, num_images))
            for result in threads.map(decode, places):
                bar.update()
                yield result
