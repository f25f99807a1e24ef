"""Tar files of a test, written member by member."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from miniclip import data
from tests.data.sources.conftest import SEEDED

SETTINGS: dict[str, Any] = {
    **SEEDED,
    "val_urls": None,
    "test_urls": None,
    "caption_column": None,
    "captions_per_line": False,
    "shuffle_window": None,
    "max_cache_gb": None,
}


def jpeg(number: int) -> bytes:
    """A small image of one color of its own."""
    pixels = np.full((24, 20, 3), [20 * number % 256, 255 - 20 * number % 256, 128], dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes] | Sequence[tuple[str, bytes]]) -> Path:
    """A tar file of these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in dict(members).items() if isinstance(members, Mapping) else members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(numbers: Sequence[int]) -> dict[str, bytes]:
    """An image and a text with its caption for each number."""
    members = {}
    for number in numbers:
        members[f"{number:04}.jpg"] = jpeg(number)
        members[f"{number:04}.txt"] = f"picture {number}\n".encode()
    return members


def write_shards(folder: Path, *, num_shards: int = 3, num_images: int = 4, word: str = "train") -> Path:
    """A folder of shards with so many images each, which are numbered throughout."""
    for shard in range(num_shards):
        numbers = range(shard * num_images, (shard + 1) * num_images)
        write_tar(folder / f"{word}-{shard:04}.tar", samples(list(numbers)))
    return folder


def as_json(**fields: Any) -> bytes:
    """The content of a .json."""
    return json.dumps(fields).encode()


def shards(urls: Path | str | list[str], **changes: Any) -> data.Shards:
    """A source of shards."""
    return data.Shards(urls=str(urls) if isinstance(urls, Path) else urls, **{**SETTINGS, **changes})
