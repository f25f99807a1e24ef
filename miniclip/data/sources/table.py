"""Images named by a table with one caption a row."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from miniclip.data.dataset import DataSource, Split, check_val_fraction, existing_path
from miniclip.data.sources.captions import (
    Captions,
    by_file,
    group_by_image,
    seeded_split,
    split_of_found_files,
)
from miniclip.data.sources.columns import (
    IMAGE_COLUMNS,
    captions_of_cell,
    captions_of_text,
    checked_text,
    find_caption_columns,
    find_column,
    shortened,
)
from miniclip.data.sources.text_files import open_text, read_text
from miniclip.errors import SettingError, UserError

SEPARATORS = (",", "\t", ";", "|")
JSON_ENDINGS = (".json", ".jsonl", ".ndjson")
JSON_FORMATS = "A list of objects is needed, or one object per line, each with an image and a caption."
LIST_STARTS = ("[", "(")
QUOTED = re.compile(r'"(?:[^"]|"")*"')

CaptionColumn = str | Sequence[str] | None
"""What `data.caption_column` may be: a name, several, or null to find them."""


MAX_FIELD_LENGTH = 2**31 - 1
"""A caption may be longer than the 128 KiB that the module csv allows by itself."""


class CSVTable(DataSource):
    """A table for training and one for validation, or one for both. Rows that name one image share it.

    Args:
        train_csv, val_csv: the tables, with a header, or JSON (`.jsonl`, `.json`), where a caption may also
            be a list of captions. Without `val_csv` a seeded share of the images of `train_csv` validates.
        train_root, val_root: the folders that the image column is relative to; `val_root` null is
            `train_root`.
        image_column, caption_column: column names; null finds them among the usual ones. Several caption
            columns hold several captions.
        separator: between the columns; null finds it in the header.
        val_fraction, split_seed: see `FolderSource`.
        source_settings: see `DataSource`.

    Raises:
        SettingError: when a table or a folder does not exist.
    """

    places = (*DataSource.places, "train_csv", "train_root", "val_csv", "val_root")

    def __init__(
        self,
        *,
        train_csv: str,
        train_root: str,
        val_csv: str | None,
        val_root: str | None,
        image_column: str | None,
        caption_column: CaptionColumn,
        separator: str | None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        **source_settings: Any,
    ):
        super().__init__(**source_settings)
        check_val_fraction(val_fraction)
        if separator is not None and len(separator) != 1:
            raise SettingError("separator", separator, "must be one character, or null to find it")
        self.image_column = image_column
        self.caption_column = caption_column
        self.separator = separator
        self.val_fraction = val_fraction
        self.split_seed = split_seed

        self.train_csv = existing_path("train_csv", train_csv)
        self.train_root = existing_path("train_root", train_root, kind="folder")
        self.val_csv = None if val_csv is None else existing_path("val_csv", val_csv)
        self.val_root = self.train_root
        if val_root is not None:
            self.val_root = existing_path("val_root", val_root, kind="folder")

    def splits(self) -> tuple[Split, Split]:
        train = self._captions(self.train_csv, self.train_root)
        if self.val_csv is None:
            train, val = seeded_split(train, val_fraction=self.val_fraction, seed=self.split_seed)
            return (
                self._split("train", train, self.train_root),
                self._split("seeded val", val, self.train_root),
            )

        val = self._captions(self.val_csv, self.val_root)
        return self._split("train", train, self.train_root), self._split("val", val, self.val_root)

    def _captions(self, table: Path, root: Path) -> Captions:
        """Captions by file, so that two ways to write one name cannot part an image from itself."""
        columns: Any = {"image_column": self.image_column, "caption_column": self.caption_column}
        if table.suffix.lower() in JSON_ENDINGS:
            rows = read_json_table(table, **columns)
        else:
            rows = read_table(table, **columns, separator=self.separator)
        return by_file(group_by_image(rows, table), root, skips_missing=self.skips_broken)

    def _split(self, name: str, captions: Captions, root: Path) -> Split:
        return split_of_found_files(name, captions, root, decode_size=self.decode_size)


def read_table(
    path: Path,
    *,
    image_column: str | None = None,
    caption_column: CaptionColumn = None,
    separator: str | None = None,
) -> Iterator[tuple[str, str]]:
    """Rows of a table as (image name, caption), a row for each caption; "" is a missing one.

    In a table separated by tabs a quote is a character like another, but where it encloses a whole field.

    Raises:
        UserError: when the file is empty, is no UTF-8, lacks a column (the text names those it has), has a
            row of another length than the header, or a quote that does not close where it should.
    """
    with open_text(path) as file:
        header_line = file.readline()
        if not header_line.strip():
            raise UserError(f"{path} is empty; it needs a header and one caption per row.")
        delimiter = separator or max(SEPARATORS, key=header_line.count)
        header = [column.strip() for column in next(_split([header_line], delimiter))[1]]
        image, captions = _places(path, header, image_column, caption_column)

        for line, row in _rows(file, path, delimiter, header, image):
            for column in captions:
                text = row[column]
                if text[:1] in LIST_STARTS:
                    for caption in captions_of_text(text.strip(), f"{path}, line {line}"):
                        yield row[image], caption
                else:
                    yield row[image], text


def read_json_table(
    path: Path, *, image_column: str | None = None, caption_column: CaptionColumn = None
) -> Iterator[tuple[str, str]]:
    """Rows of a file of JSON objects as (image name, caption); "" is a missing caption.

    Raises:
        UserError: when the file is neither a list of objects nor an object per line, or one of them lacks
            the image or holds something else than captions.
    """
    keys: tuple[str, list[str]] | None = None
    where = _Place(path)
    for row in _objects(path, where):
        if not isinstance(row, dict):
            raise UserError(f"{where}: {shortened(row)} is not an object with an image and a caption.")
        if keys is None:
            header = list(row)
            image, captions = _places(path, header, image_column, caption_column)
            keys = header[image], [header[caption] for caption in captions]

        name = row.get(keys[0])
        if not isinstance(name, str):
            raise UserError(f"{where}: {keys[0]} is {shortened(name)}, not the name of an image file.")
        checked_text(name, where)
        for key in keys[1]:
            for caption in captions_of_cell(row.get(key), where):
                yield name, caption


def _places(
    path: Path, header: Sequence[str], image_column: str | None, caption_column: CaptionColumn
) -> tuple[int, list[int]]:
    """Where the image column and the caption columns stand."""
    wanted = IMAGE_COLUMNS if image_column is None else [image_column]
    image = find_column(header, wanted, source=path, setting="image_column")
    captions = find_caption_columns(header, caption_column, source=path)
    return header.index(image), [header.index(caption) for caption in captions]


def _split(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The fields of each row, with the number of lines read so far: in quotes a field may span several.

    Raises:
        csv.Error: when a quote does not close where its field ends.
    """
    if delimiter == "\t":
        return enumerate(map(_split_at_tabs, lines), start=1)
    csv.field_size_limit(MAX_FIELD_LENGTH)
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    return ((rows.line_num, row) for row in rows)


def _split_at_tabs(line: str) -> list[str]:
    """The fields of a line, without the quotes around a whole field."""
    fields = line.rstrip("\r\n").split("\t") if line.strip() else []
    if '"' not in line:
        return fields
    return [
        field[1:-1].replace('""', '"') if QUOTED.fullmatch(field) else field
        for field in map(str.strip, fields)
    ]


def _rows(
    file: Iterable[str], path: Path, delimiter: str, header: Sequence[str], image: int
) -> Iterator[tuple[int, list[str]]]:
    """The rows below the header that are not blank, each with the line it begins in.

    Raises:
        UserError: when a row is longer or shorter than the header, or swallows others by an open quote.
    """
    width = len(header)
    line = 2
    try:
        for num_lines, row in _split(file, delimiter):
            last_line = num_lines + 1
            if last_line > line and _swallows(row, delimiter, image):
                raise _open_quote(path, line, "it swallows lines below")
            if len(row) == width:
                yield line, row
            elif row:
                raise _wrong_length(path, line, len(row), width, delimiter)
            line = last_line + 1
    except csv.Error as error:
        raise _open_quote(path, line, str(error)) from None


def _swallows(row: Sequence[str], delimiter: str, image: int) -> bool:
    """Whether a cell of several lines holds a row of the table: a separator, and an image's file name."""
    ending = PurePosixPath(row[image] if len(row) > image else row[-1]).suffix.strip().lower()
    lines = [line for cell in row for line in cell.splitlines()]
    rows = [line.lower().split(delimiter) for line in lines if delimiter in line]
    return any(piece.strip(' "').endswith(ending) for pieces in rows for piece in pieces)


def _open_quote(path: Path, line: int, problem: str) -> UserError:
    return UserError(
        f'{path}, line {line}: a quote (") that opens here does not close where its field ends '
        f"({problem}). "
        'Put the whole caption in quotes and write each quote within it twice: "a ""red"" ball".'
    )


def _wrong_length(path: Path, line: int, length: int, expected: int, delimiter: str) -> UserError:
    fix = f'Put a caption that holds the separator {delimiter!r} in quotes: "one{delimiter} two".'
    if delimiter == "\t":
        fix = "Captions of a table separated by tabs hold neither tabs nor line breaks: use spaces."
    return UserError(f"{path}, line {line}: {length} columns where the header has {expected}. {fix}")


class _Place:
    """Where in a file its reader stands, as text only when an error asks for it."""

    def __init__(self, path: Path):
        self.path = path
        self.unit = "line"
        self.number = 0

    def __str__(self) -> str:
        return f"{self.path}, {self.unit} {self.number}"


def _objects(path: Path, place: _Place) -> Iterator[Any]:
    """The rows of a JSON list or of JSON lines; keeps `place` at the row that is out.

    Raises:
        UserError: when the file is of another shape, which the text names.
    """
    with open_text(path) as file:
        first = next((line for line in file if line.strip()), "").strip()
    if not first.startswith("["):
        if path.suffix.lower() == ".json":
            _check_lines(path)
        yield from _object_lines(path, place)
        return

    try:
        rows = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: no JSON ({error.msg}). {JSON_FORMATS}") from None
    place.unit = "object"
    for number, row in enumerate(rows, start=1):
        place.number = number
        yield row


def _object_lines(path: Path, place: _Place) -> Iterator[Any]:
    decode = json.JSONDecoder().decode
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place.number = number
            try:
                row = decode(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{place}: no JSON ({error}). {JSON_FORMATS}") from None
            yield row


def _check_lines(path: Path) -> None:
    """Stop at a file that is one JSON value as a whole.

    Raises:
        UserError: when it is; the text names its shape.
    """
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError:
        return
    shape = f"one {type(content).__name__}"
    if isinstance(content, dict):
        shape = f"one object with the keys {shortened(list(content))}"
    raise UserError(f"{path} is {shape}. {JSON_FORMATS}")
