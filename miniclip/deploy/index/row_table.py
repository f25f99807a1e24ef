"""Images that lie in the rows of a Parquet file."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miniclip.data.sources.caption_cells import captions_of_cell
from miniclip.data.sources.image_cells import image_cells
from miniclip.data.sources.parquet_size import check_size
from miniclip.deploy.index.source import ImageSource, SourceImage
from miniclip.errors import BrokenImage, UserError, first_line

if TYPE_CHECKING:
    import pyarrow

ROWS_AT_ONCE = 256
"""Rows of a table that are in memory at a time."""


class RowTable(ImageSource):
    """The images in the rows of a Parquet file.

    Args:
        path: of the table.
        image_column: of the images.
        title_column: of their titles; None for none.
    """

    kind = "rows"

    def __init__(self, path: Path, image_column: str, title_column: str | None):
        super().__init__(path, path.parent)
        self.image_column = image_column
        self.title_column = title_column

    def __len__(self) -> int:
        with parquet_file(self.path) as file:
            return file.metadata.num_rows

    @property
    def stamp(self) -> tuple[int, int]:
        found = self.path.stat()
        return found.st_size, found.st_mtime_ns

    def images(self) -> Iterator[tuple[SourceImage, bytes | None]]:
        _, mtime_ns = self.stamp
        numbers = itertools.count()

        for images, titles in self._batches():
            for content, title in zip(images, titles, strict=True):
                size = -1 if content is None else len(content)
                yield SourceImage(str(next(numbers)), size, mtime_ns, title), content

    def check(self) -> None:
        """Look at the first rows.

        Raises:
            UserError: when the column holds anything but images.
        """
        next(self._batches(), None)

    def content(self, image: SourceImage) -> bytes:
        raise _missing(self.path, image.name)

    def _batches(self) -> Iterator[tuple[list[bytes | None], list[str | None]]]:
        """The images of some rows, and their titles."""
        assert self.image_column is not None
        columns = [self.image_column]
        if self.title_column is not None:
            columns.append(self.title_column)

        with parquet_file(self.path) as file:
            check_size([self.path], columns)
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                contents = _contents(batch, self.image_column, self.path)

                titles: list[str | None] = [None] * len(contents)
                if self.title_column is not None:
                    cells = batch.column(self.title_column).to_pylist()
                    titles = [title_of_cell(cell, self.path) for cell in cells]

                yield contents, titles


def read_row(path: Path, row: int, image_column: str) -> bytes:
    """The content of an image in a row of a Parquet file.

    Raises:
        BrokenImage: when it is not there, or the table is now another one.
    """
    if not path.is_file():
        raise _missing(path, row)
    try:
        return _content_of_row(path, row, image_column)
    except BrokenImage:
        raise
    except UserError as error:
        raise BrokenImage(f"The image {path}, row {row} cannot be read: {error}") from None


def _content_of_row(path: Path, row: int, image_column: str) -> bytes:
    missing = _missing(path, row)
    with parquet_file(path) as file:
        if row < 0 or image_column not in file.schema_arrow.names:
            raise missing
        for group in range(file.num_row_groups):
            num_rows = file.metadata.row_group(group).num_rows
            if row < num_rows:
                part = file.read_row_group(group, columns=[image_column]).slice(row, 1)
                content = _contents(part, image_column, path)[0]
                if content is None:
                    raise missing
                return content
            row -= num_rows
    raise missing


def _missing(path: Path, row: int | str) -> BrokenImage:
    return BrokenImage(f"The image {path}, row {row} is missing.", "missing")


@contextmanager
def parquet_file(path: Path) -> Iterator["pyarrow.parquet.ParquetFile"]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f'{path} needs pyarrow to be read: pip install -e ".[data]"') from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"The table {path} cannot be read ({first_line(error)}).") from None


def title_of_cell(cell: Any, path: Path) -> str | None:
    """The first caption of a cell; None where it holds something else."""
    try:
        return captions_of_cell(cell, path)[0] or None
    except UserError:
        return None


def _contents(table: Any, column: str, path: Path) -> list[bytes | None]:
    """The images of a batch or table of Arrow."""
    import pyarrow

    if isinstance(table, pyarrow.RecordBatch):
        table = pyarrow.Table.from_batches([table])
    contents, _, _ = image_cells(table.column(column), f"{path}: the column {column}")
    return [content if content is None else content.as_py() for content in contents]
