"""Tables of text: columns with a separator between them."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from miniclip.data.sources.caption_cells import captions_of_text
from miniclip.data.sources.columns import ColumnNames, TableRow, find_columns
from miniclip.data.sources.text_files import open_text
from miniclip.errors import UserError

SEPARATORS = (",", "\t", ";", "|")
LIST_STARTS = ("[", "(")
QUOTED = re.compile(r'"(?:[^"]|"")*"')

MAX_FIELD_LENGTH = 2**31 - 1
"""A cell, a list of captions say, may be longer than the 128 KiB that the module csv allows by itself."""


def read_table(
    path: Path, names: ColumnNames | None = None, *, separator: str | None = None
) -> Iterator[tuple[str, str]]:
    """Rows of a table as (image name, caption); see `read_rows`."""
    return (row[:2] for row in read_rows(path, names, separator=separator))


def read_rows(
    path: Path, names: ColumnNames | None = None, *, separator: str | None = None
) -> Iterator[TableRow]:
    """Rows of a table, one for each caption.

    In a table separated by tabs a quote is a character like another, but where it encloses a whole field.

    Args:
        path: of the table, which begins with a header.
        names: what the user calls the columns; None finds them among the usual names.
        separator: between the columns; None finds it in the header.

    Raises:
        UserError: when the file is empty, is no UTF-8, lacks a column (the text names those it has), has a
            row of another length than the header, or a quote that does not close where it should.
    """
    with open_text(path) as file:
        header, delimiter = _header(file.readline(), path, separator)
        columns = find_columns(header, names or ColumnNames(), source=path)
        image = header.index(columns.image)
        captions = [header.index(caption) for caption in columns.captions]
        split = None if columns.split is None else header.index(columns.split)

        for line, row in _rows(file, path, delimiter, header, image):
            for column in captions:
                for caption in _captions(row[column], path, line):
                    yield TableRow(row[image], caption, None if split is None else row[split])


def read_header(path: Path) -> list[str]:
    """The names of the columns of a table.

    Raises:
        UserError: when the file is empty or no UTF-8.
    """
    with open_text(path) as file:
        return _header(file.readline(), path, None)[0]


def _header(line: str, path: Path, separator: str | None) -> tuple[list[str], str]:
    """The names of the columns in the first line of a table, and what separates them."""
    if not line.strip():
        raise UserError(f"{path} is empty; it needs a header and one caption per row.")
    delimiter = separator or max(SEPARATORS, key=line.count)
    try:
        _, fields = next(_split([line], delimiter))
    except csv.Error as error:
        if line.lstrip().startswith("{"):
            raise UserError(f"{path} holds JSON. Give it the ending .jsonl.") from None
        raise _open_quote(path, 1, str(error)) from None
    return [column.strip() for column in fields], delimiter


def _captions(text: str, path: Path, line: int) -> Sequence[str]:
    """The captions in a cell, of which there are several where it looks like a list."""
    if not text.lstrip().startswith(LIST_STARTS):
        return (text,)
    return captions_of_text(text.strip(), f"{path}, line {line}")


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

    # within a field a quote is a character like another
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
    line = 2  # below the header
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
    name = row[image] if len(row) > image else row[-1]
    ending = PurePosixPath(name).suffix.strip().lower()

    # rows of this table end their image names as this row does
    for cell in row:
        for line in cell.lower().splitlines():
            fields = line.split(delimiter)
            if len(fields) > 1 and any(field.strip(' "').endswith(ending) for field in fields):
                return True
    return False


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
