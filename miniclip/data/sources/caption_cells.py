"""Cells of tables: the captions in one, whatever it holds."""

import ast
import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from miniclip.errors import UserError, counted

log = logging.getLogger(__name__)

LITERAL = r"""[uU]?'(?:[^'\\]|\\.)*'|[uU]?"(?:[^"\\]|\\.)*"|None|null|nan"""
SEPARATED = re.compile(rf"(?:{LITERAL})(?:(?:\s*,\s*|\s+)(?:{LITERAL}))*(?:\s*,)?", re.DOTALL)
LISTED = re.compile(r"""[\[(]\s*(?:[uU]?['"]|\]$)""")
"""How a text begins that is taken for a list of texts: a bracket and a quote."""

MOST_SHOWN = 60
"""Characters of a value that an error shows."""

MOST_LETTERS = 100_000
"""Of a caption: a thousand times what models read of one, and little enough for a tokenizer."""


def captions_of_rows(
    columns: Mapping[str, Sequence[Any]], field: str | None, *, source: object
) -> list[list[str]]:
    """The captions of each row, over one or several columns; a row without any has an empty list.

    Args:
        columns: the cells of each caption column.
        field: which field of objects holds the caption; see `Columns`.
        source: how an error calls the table.

    Raises:
        UserError: see `captions_of_cell`; for objects the text names their keys.
    """
    rows = enumerate(zip(*columns.values(), strict=True))
    captions = [
        captions_of_row(dict(zip(columns, cells, strict=True)), field, source=source, row=row)
        for row, cells in rows
    ]

    # rows with no caption at all are counted where they are left out.
    num_empty = sum(texts.count("") for texts in captions if any(texts))
    if num_empty:
        log.warning("%s: %s of rows with others left out.", source, counted(num_empty, "empty caption"))
    return [[text for text in texts if text] for texts in captions]


def captions_of_row(
    cells: Mapping[str, Any], field: str | None, *, source: object, row: object
) -> list[str]:
    """The captions of one row, "" for each that is missing; see `captions_of_rows`."""
    captions = []
    for name, cell in cells.items():
        where = f"{source}: the column {name}, row {row}"
        captions += captions_of_cell(_field_of(cell, field, column=name, where=where), where)
    return captions


def captions_of_cell(value: Any, where: object) -> list[str]:
    """The captions in a cell of any table, stripped; "" stands for each one that is missing.

    A text is one caption, or several where it is itself a list of texts as Python, NumPy or JSON write it.
    A list, tuple or array holds several. An integer is taken as its digits. None, NaN and an empty list are
    a missing caption.

    Args:
        value: the content of the cell.
        where: how an error calls the cell; made into text only then.

    Raises:
        UserError: when the cell holds something else (a float, a bool, an object, bytes, a list of lists),
            a text that begins and ends like a list and is none, or half a character.
    """
    if isinstance(value, str):
        return captions_of_text(value.strip(), where)
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_caption(item, where) for item in value] or [""]
    return [_caption(value, where)]


def captions_of_text(text: str, where: object) -> list[str]:
    """The captions in a stripped text; see `captions_of_cell`."""
    if text.startswith(("[", "(")) and LISTED.match(text):
        listed = _listed(text)
        if listed is not None:
            return [_caption(item, where) for item in listed] or [""]
        if text.startswith("[") and text.endswith("]"):
            raise UserError(
                f"{where}: {shortened(text)} begins and ends like a list of captions and is none. Write "
                'it as JSON does: ["a dog", "a brown dog"].'
            )
    return [checked_text(text, where)]


def checked_text(text: str, where: object) -> str:
    """The text, when it is short enough and every character is whole.

    Raises:
        UserError: when it has more than `MOST_LETTERS`, or holds a lone surrogate, which no file can be
            written with.
    """
    if len(text) > MOST_LETTERS:
        raise UserError(
            f"{where}: {shortened(text)} has {len(text):,} letters, more than {MOST_LETTERS:,}. "
            "Shorten or remove it."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise UserError(
            f"{where}: {shortened(text)} holds half a character (a lone surrogate, \\u{ord(half):04x}). "
            "Correct or remove it."
        ) from None
    return text


def shortened(value: object) -> str:
    """How an error shows a value: on one line, of 60 characters at most."""
    if isinstance(value, str):
        value = value[: MOST_SHOWN + 1]  # writing out all of ten million takes seconds
    shown = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return shown if len(shown) <= MOST_SHOWN else f"{shown[: MOST_SHOWN - 3]}..."


def _caption(value: Any, where: object) -> str:
    if isinstance(value, str):
        return checked_text(value.strip(), where)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    kind = "an object" if isinstance(value, dict) else f"a {type(value).__name__}"
    raise UserError(
        f"{where}: a caption is {kind}, {shortened(value)}; a text or a list of texts is needed. Write "
        "it as text, or name another column with data.caption_column=..."
    )


def _listed(text: str) -> list[Any] | None:
    """The items of a list of texts that stands in one text, None when it is no such list.

    `ast.literal_eval` of the whole would join NumPy's 'a' 'b', which has no commas, into one text.
    """
    try:
        items = json.loads(text)
        return items if isinstance(items, list) else None
    except (ValueError, RecursionError):
        pass

    inner = text[1:-1].strip()
    closes = text[-1] == {"[": "]", "(": ")"}[text[0]]
    # ("Hello") is a text in brackets; a tuple has a comma
    if not closes or not SEPARATED.fullmatch(inner) or (text[0] == "(" and "," not in inner):
        return None
    literals = re.findall(LITERAL, inner, re.DOTALL)
    try:
        return [None if item in ("None", "null", "nan") else _literal(item) for item in literals]
    except (SyntaxError, ValueError):
        return None


def _literal(item: str) -> str:
    # A text in quotes may span lines here, which Python's own literals may not.
    return str(ast.literal_eval(item.replace("\r", "\\r").replace("\n", "\\n")))


def _field_of(cell: Any, field: str | None, *, column: str, where: str) -> Any:
    """The named field of an object, or of each object of a list; other cells as they are.

    Raises:
        UserError: when an object has no such field, or none is named.
    """
    if isinstance(cell, list):
        return [_field_of(item, field, column=column, where=where) for item in cell]
    if not isinstance(cell, Mapping):
        return cell
    if field in cell:
        return cell[field]
    missing = "" if field is None else f" and without {field}"
    raise UserError(
        f"{where}: a caption is an object with {', '.join(map(str, cell))}{missing}; choose one: "
        f"data.caption_column={column}.{next(iter(cell), 'KEY')}"
    )
