"""Where the images of an index come from: folders, tables that name files, and tables that hold images."""

import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from miniclip.data.image_content import read_content
from miniclip.data.sources.caption_cells import captions_of_cell
from miniclip.data.sources.columns import (
    IMAGE_COLUMNS,
    ColumnNames,
    find_caption_columns,
    find_column,
)
from miniclip.data.sources.delimited import read_header, read_table
from miniclip.data.sources.image_cells import image_cells
from miniclip.data.sources.image_names import find_images as files_of_names
from miniclip.data.sources.json_table import read_json_table, read_keys
from miniclip.data.sources.walk import find_images
from miniclip.errors import BrokenImage, UserError

if TYPE_CHECKING:
    import pyarrow

TEXT_ENDINGS = (".csv", ".tsv", ".txt")
JSON_ENDINGS = (".json", ".jsonl", ".ndjson")
PARQUET_ENDINGS = (".parquet",)

ROWS_AT_ONCE = 256
"""Rows of a table that are in memory at a time."""


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
            yield _file(self.root, name, None), None


class FileTable(ImageSource):
    """The images that a table names; of rows that name the same file the first counts.

    Args:
        path: of the table.
        root: the folder that the names are relative to.
        titles: name of each image's file to its title, if it has one.
    """

    def __init__(self, path: Path, root: Path, titles: Mapping[str, str | None]):
        super().__init__(path, root)
        if not titles:
            raise UserError(f"{path} names no images.")
        self.titles: dict[str, str | None] = {}
        for name, file in files_of_names(root, titles, skips_missing=True).items():
            self.titles.setdefault(file, titles[name])

    def __len__(self) -> int:
        return len(self.titles)

    def images(self) -> Iterator[tuple[SourceImage, None]]:
        for name, title in self.titles.items():
            yield _file(self.root, name, title), None


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
        with _parquet(self.path) as file:
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

    def content(self, image: SourceImage) -> bytes:
        raise BrokenImage(f"The image {self.path}, row {image.name} is missing.", "missing")

    def _batches(self) -> Iterator[tuple[list[bytes | None], list[str | None]]]:
        """The images of some rows, and their titles."""
        assert self.image_column is not None
        columns = [self.image_column, *([] if self.title_column is None else [self.title_column])]
        with _parquet(self.path) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                contents = _contents(batch, self.image_column, self.path)
                titles: list[str | None] = [None] * len(contents)
                if self.title_column is not None:
                    cells = batch.column(self.title_column).to_pylist()
                    titles = [_title(cell, self.path) for cell in cells]
                yield contents, titles


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
    ending = path.suffix.lower()
    with _options_named():
        if ending in TEXT_ENDINGS:
            return _table_of_text(path, root, image_column)
        if ending in JSON_ENDINGS:
            return _table_of_json(path, root, image_column)
        if ending in PARQUET_ENDINGS:
            return _table_of_parquet(path, root, image_column)
    known = ", ".join((*TEXT_ENDINGS, *JSON_ENDINGS, *PARQUET_ENDINGS))
    raise UserError(f"{path} is neither a folder of images nor a table ({known}). Name its folder.")


def read_row(path: Path, row: int, image_column: str) -> bytes:
    """The content of an image in a row of a Parquet file.

    Raises:
        BrokenImage: when it is not there.
    """
    missing = BrokenImage(f"The image {path}, row {row} is missing.", "missing")
    if not path.is_file():
        raise missing
    with _parquet(path) as file:
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


def _file(root: Path, name: str, title: str | None) -> SourceImage:
    try:
        found = os.stat(root / name)
    except (OSError, ValueError):
        return SourceImage(name, -1, -1, title)
    return SourceImage(name, found.st_size, found.st_mtime_ns, title)


def _hint(folder: Path) -> str:
    """What a folder without images holds in their place."""
    tables = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PARQUET_ENDINGS)
    return f" It holds tables; name these: {folder / tables[0]}" if tables else ""


def _table_of_text(path: Path, root: Path, image_column: str | None) -> ImageSource:
    image, title = _columns(read_header(path), image_column, path)
    return FileTable(path, root, _titles(read_table(path, ColumnNames(image, title or image)), title))


def _table_of_json(path: Path, root: Path, image_column: str | None) -> ImageSource:
    image, title = _columns(read_keys(path), image_column, path)
    return FileTable(path, root, _titles(read_json_table(path, ColumnNames(image, title or image)), title))


def _table_of_parquet(path: Path, root: Path, image_column: str | None) -> ImageSource:
    with _parquet(path) as file:
        schema = file.schema_arrow
        image, title = _columns(schema.names, image_column, path)
        kind = str(schema.field(image).type)
        if kind not in ("string", "large_string"):
            source = RowTable(path, image, title)
            next(source._batches(), None)  # which refuses a column of anything but images
            return source

        names = file.read([image]).column(image).to_pylist()
        titles = [None] * len(names) if title is None else file.read([title]).column(title).to_pylist()
    rows = ((name, _title(cell, path) or "") for name, cell in zip(names, titles, strict=True) if name)
    return FileTable(path, root, _titles(rows, title))


def _columns(names: Sequence[str], image_column: str | None, path: Path) -> tuple[str, str | None]:
    """The column of images, and that of their titles, if there is one."""
    wanted = IMAGE_COLUMNS if image_column is None else [image_column]
    image = find_column(names, wanted, source=path, setting="image_column")
    try:
        return image, find_caption_columns([name for name in names if name != image], None, source=path)[0]
    except UserError:
        return image, None


def _titles(rows: Any, title_column: str | None) -> dict[str, str | None]:
    """The first title that rows of (name, title) give each image."""
    titles: dict[str, str | None] = {}
    for name, text in rows:
        name = name.strip()
        title = text.strip() or None if title_column else None
        if name and titles.get(name) is None:
            titles[name] = title
    return titles


def _title(cell: Any, path: Path) -> str | None:
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


@contextmanager
def _parquet(path: Path) -> Iterator["pyarrow.parquet.ParquetFile"]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f'{path} needs pyarrow to be read: pip install -e ".[data]"') from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"The table {path} cannot be read ({error}).") from None


@contextmanager
def _options_named() -> Iterator[None]:
    """Errors of tables name a setting of the data; here it is an option."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("data.image_column=...", "--image-column ...")) from None
