"""Images as a table holds them: their bytes in its cells, or files that these name."""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from miniclip.data.image_content import read_content
from miniclip.data.images import ImageBytes, size_and_time


class EncodedImages:
    """The file contents of images, from a table or from files that it names; None for a missing one.

    Args:
        contents: by row bytes or None, or an Arrow scalar of these.
        paths: by row the file of an image that has no bytes, else None.
    """

    def __init__(self, contents: Any, paths: Sequence[str | None]):
        self.contents = contents
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Any:
        path = self.paths[row]
        if path is None:
            return self.contents[row]
        return read_content(Path(path)) if os.path.isfile(path) else None


class CellImages(ImageBytes):
    """RGB images (3, H, W) uint8 in the cells of a table, or in files that these name.

    Args:
        encoded: their contents.
        names, decode_size: see `OnDemandImages`.
    """

    encoded: EncodedImages

    def num_bytes(self, index: int) -> int | None:
        path = self.encoded.paths[index]
        return super().num_bytes(index) if path is None else size_and_time(Path(path))[0] or None

    @cached_property
    def identity(self) -> Any:
        """A checksum of the images in cells; of those in files size and time of change."""
        in_cells = ImageBytes(self.encoded.contents, self.names, decode_size=self.decode_size).identity
        files = [size_and_time(Path(path)) for path in self.encoded.paths if path is not None]
        return (in_cells, files) if files else in_cells
