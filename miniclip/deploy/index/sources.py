"""Where the images of an index come from: a folder, or a table that names files or holds images."""

import os
from collections.abc import Iterator
from pathlib import Path

from miniclip.data.sources.walk import find_images, is_visible, lies_within
from miniclip.deploy.index.source import ImageSource, SourceImage, image_of_file
from miniclip.deploy.index.tables import PARQUET_ENDINGS, open_table
from miniclip.errors import UserError


def open_source(path: Path, *, root: Path | None = None, image_column: str | None = None) -> ImageSource:
    """The folder or table at a path.

    Args:
        root: the folder that names in a table are relative to; None is the table's own.
        image_column: of a table; None finds it among the usual names.

    Raises:
        UserError: when there is neither, or no image in it.
    """
    path = Path(os.path.abspath(path))
    if path.is_dir():
        return FolderSource(path)
    if not path.is_file():
        raise UserError(f"There is no folder and no table {path}.")

    root = path.parent if root is None else Path(os.path.abspath(root))
    if not root.is_dir():
        raise UserError(f"There is no folder {root} of images for the table {path}.")
    return open_table(path, root, image_column)


class FolderSource(ImageSource):
    """The images below a folder.

    Raises:
        UserError: when there are none.
    """

    def __init__(self, path: Path):
        super().__init__(path, path)
        self.names = find_images(path)
        if not self.names:
            raise UserError(f"{path} holds no images.{_hint(path)}")

    def __len__(self) -> int:
        return len(self.names)

    def images(self) -> Iterator[tuple[SourceImage, None]]:
        for name in self.names:
            yield image_of_file(self.root, name), None


def is_below(path: Path, folder: Path) -> bool:
    """Whether a folder lies in another one, among the images of that one."""
    if path == folder or not path.is_relative_to(folder):
        return False
    is_entered = all(is_visible(part) for part in path.relative_to(folder).parts)
    return is_entered and lies_within(os.path.realpath(folder), path)


def _hint(folder: Path) -> str:
    """What a folder without images holds in their place."""
    tables = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PARQUET_ENDINGS)
    return f" It holds tables; name these: {folder / tables[0]}" if tables else ""
