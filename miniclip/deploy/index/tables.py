"""Opening a table by its ending: which of its columns hold images and titles, and as what."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from miniclip.data.sources.columns import (
    IMAGE_COLUMNS,
    ColumnNames,
    find_caption_columns,
    find_column,
)
from miniclip.data.sources.delimited import read_header, read_table
from miniclip.data.sources.json_table import JSON_ENDINGS, read_json_table, read_keys
from miniclip.deploy.index.file_table import FileTable
from miniclip.deploy.index.row_table import RowTable, parquet_file, title_of_cell
from miniclip.deploy.index.source import ImageSource
from miniclip.errors import UserError

TEXT_ENDINGS = (".csv", ".tsv", ".txt")
PARQUET_ENDINGS = (".parquet",)


def open_table(path: Path, root: Path, image_column: str | None) -> ImageSource:
    """The images that a table names or holds. Arguments as of `open_source`, the paths absolute."""
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


def _table_of_text(path: Path, root: Path, image_column: str | None) -> ImageSource:
    image, title = _columns(read_header(path), image_column, path)
    rows = read_table(path, ColumnNames(image, title or image))
    return FileTable(path, root, _titles(rows, title))


def _table_of_json(path: Path, root: Path, image_column: str | None) -> ImageSource:
    image, title = _columns(read_keys(path), image_column, path)
    rows = read_json_table(path, ColumnNames(image, title or image))
    return FileTable(path, root, _titles(rows, title))


def _table_of_parquet(path: Path, root: Path, image_column: str | None) -> ImageSource:
    """Names of files where the column of images holds text, else the images themselves."""
    with parquet_file(path) as file:
        schema = file.schema_arrow
        image, title = _columns(schema.names, image_column, path)

        if str(schema.field(image).type) not in ("string", "large_string"):
            source = RowTable(path, image, title)
            source.check()
            return source

        names = file.read([image]).column(image).to_pylist()
        cells = [None] * len(names) if title is None else file.read([title]).column(title).to_pylist()

    titles = [title_of_cell(cell, path) or "" for cell in cells]
    rows = [(name, text) for name, text in zip(names, titles, strict=True) if name]
    return FileTable(path, root, _titles(rows, title))


def _columns(names: Sequence[str], image_column: str | None, path: Path) -> tuple[str, str | None]:
    """The column of images, and that of their titles, if there is one."""
    wanted = IMAGE_COLUMNS if image_column is None else [image_column]
    image = find_column(names, wanted, source=path, setting="image_column")

    others = [name for name in names if name != image]
    try:
        return image, find_caption_columns(others, None, source=path)[0]
    except UserError:
        return image, None


def _titles(rows: Iterable[tuple[str, str]], title_column: str | None) -> dict[str, str | None]:
    """The first title that rows of (name, title) give each image."""
    titles: dict[str, str | None] = {}
    for name, text in rows:
        name = name.strip()
        title = text.strip() or None if title_column else None
        if name and titles.get(name) is None:
            titles[name] = title
    return titles


@contextmanager
def _options_named() -> Iterator[None]:
    """Errors of tables name a setting of the data; here it is an option."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("data.image_column=...", "--image-column ...")) from None
