"""Tables of JSON: a list of objects, or an object per line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from miniclip.data.sources.caption_cells import captions_of_cell, checked_text, shortened
from miniclip.data.sources.columns import ColumnNames, Columns, TableRow, find_columns
from miniclip.data.sources.text_files import open_text, read_text
from miniclip.errors import UserError

JSON_ENDINGS = (".json", ".jsonl", ".ndjson")
"""Of the names of files that are read as JSON."""

JSON_FORMATS = "A list of objects is needed, or one object per line, each with an image and a caption."


def read_json_table(path: Path, names: ColumnNames | None = None) -> Iterator[tuple[str, str]]:
    """Rows of a file of JSON objects as (image name, caption); see `read_json_rows`."""
    return (row[:2] for row in read_json_rows(path, names))


def read_json_rows(path: Path, names: ColumnNames | None = None) -> Iterator[TableRow]:
    """Rows of a file of JSON objects, one for each caption.

    Args:
        path: of the file.
        names: what the user calls the columns, which are the keys of the first object; None finds them
            among the usual names.

    Raises:
        UserError: when the file is neither a list of objects nor an object per line, or one of them lacks
            the image or holds something else than captions.
    """
    columns: Columns | None = None
    where = _Place(path)
    for row in _objects(path, where):
        if not isinstance(row, dict):
            raise UserError(f"{where}: {shortened(row)} is not an object with an image and a caption.")
        if columns is None:
            columns = find_columns(list(row), names or ColumnNames(), source=path)

        name = row.get(columns.image)
        if not isinstance(name, str):
            raise UserError(
                f"{where}: {columns.image} is {shortened(name)}, not the name of an image file."
            )
        checked_text(name, where)
        part = _part(row, names)
        for key in columns.captions:
            for caption in captions_of_cell(row.get(key), where):
                yield TableRow(name, caption, part)


def _part(row: dict[str, Any], names: ColumnNames | None) -> str | None:
    """What names a row's part; not each need have it."""
    wanted = None if names is None or names.split is None else names.split.casefold()
    value = next((value for key, value in row.items() if key.strip().casefold() == wanted), None)
    return None if value is None else str(value)


def read_keys(path: Path) -> list[str]:
    """The keys of the first object of a file of JSON objects.

    Raises:
        UserError: when the file is neither a list of objects nor an object per line.
    """
    row: Any = next(_objects(path, _Place(path)), {})
    return list(row) if isinstance(row, dict) else []


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
        # lines under the ending of a whole document: perhaps it is one
        if path.suffix.lower() == ".json":
            _check_lines(path)
        yield from _object_lines(path, place)
        return

    try:
        rows = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: no JSON ({error.msg}). {JSON_FORMATS}") from None
    except (ValueError, RecursionError) as error:  # a number of many digits, or lists in lists in lists
        raise UserError(f"{path}: no JSON ({error}). {JSON_FORMATS}") from None

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
            except (ValueError, RecursionError) as error:
                raise UserError(f"{place}: no JSON ({error}). {JSON_FORMATS}") from None
            yield row


def _check_lines(path: Path) -> None:
    """Stop at a file that is one JSON value as a whole.

    Raises:
        UserError: when it is; the text names its shape.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError):
        return
    shape = f"one {type(content).__name__}"
    if isinstance(content, dict):
        shape = f"one object with the keys {shortened(list(content))}"
    raise UserError(f"{path} is {shape}. {JSON_FORMATS}")
