"""What an index knows of a source of images, and asks of it."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from miniclip.data.image_content import read_content


class SourceImage(NamedTuple):
    """An image as a source shows it.

    Attributes:
        name: in its source.
        size, mtime_ns: of its file, or its length and the time of its table; equal ones mean no change. A
            missing file has -1 for both.
        title: that a table gives it.
    """

    name: str
    size: int
    mtime_ns: int
    title: str | None = None


class ImageSource(ABC):
    """A source of images.

    Attributes:
        kind: "files", or "rows" of a table that holds the images.
        path: absolute, of the folder or table.
        root: the folder that names of files are relative to.
        image_column: of a table that holds the images.
    """

    kind = "files"
    image_column: str | None = None

    def __init__(self, path: Path, root: Path):
        self.path = path
        self.root = root

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def images(self) -> Iterator[tuple[SourceImage, bytes | None]]:
        """Each image, with its content where the source has it at hand."""

    def content(self, image: SourceImage) -> bytes:
        """The content of an image's file.

        Raises:
            BrokenImage: when it cannot be read.
        """
        return read_content(self.root / image.name)

    @property
    def stamp(self) -> tuple[int, int] | None:
        """Size and time of a table which need not be read again if they have not changed."""
        return None


def image_of_file(root: Path, name: str, title: str | None = None) -> SourceImage:
    """The image of a file below `root`, which may be missing."""
    try:
        found = os.stat(root / name)
    except (OSError, ValueError):
        return SourceImage(name, -1, -1, title)
    return SourceImage(name, found.st_size, found.st_mtime_ns, title)
