"""Columns of tables: which one holds what, and the captions in a cell."""

import ast
import json
import logging
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from miniclip.errors import UserError

log = logging.getLogger(__name__)

IMAGE_COLUMNS = ("image", "image_name", "file_name", "filename", "filepath", "path", "img", "file")
CAPTION_COLUMNS = (
    "caption",
    "captions",
    "comment",
    "text",
    "title",
    "raw",
    "description",
    "sentence",
)

LITERAL = r"""[uU]?'(?:[^'\\]|\\.)*'|[uU]?"(?:[^"\\]|\\.)*"|None|null|nan"""
SEPARATED = re.compile(rf"(?:{LITERAL})(?:(?:\s*,\s*|\s+)(?:{LITERAL}))*(?:\s*,)?", re.DOTALL)
LISTED = re.compile(r"""[\[(]\s*(?:[uU]?['"]|\]$)""")
"""How a text begins that is taken for a list of texts: a bracket and a quote."""


def find_column(names: Sequence[str], wanted: Sequence[str], *, source: object, setting: str) -> str:
    """The first of the wanted columns that is there, as the table spells it.

    A column spelt exactly so is preferred; otherwise case and surrounding spaces do not count.

    Args:
        names: the columns of the table.
        wanted: names in the order of preference; one alone is what the user gave.
        source: how an error calls the table.
        setting: which setting names the column (`caption_column`).

    Raises:
        UserError: when there is none, or when two match equally; the text names the columns there are.
    """
    for name in wanted:
        exact = [column for column in names if column == name]
        alike = [column for column in names if _key(column) == _key(name)]
        matches = exact or alike
        if len(matches) > 1:
            raise UserError(
                f"{source} has {len(matches)} columns that can be {name}: {', '.join(map(repr, matches))}. "
                f"Name another with data.{setting}=..., or rename one of them."
            )
        if matches:
            return matches[0]

    missing = f"no column {wanted[0]}" if len(wanted) == 1 else f"none of the columns {', '.join(wanted)}"
    raise UserError(
        f"{source} has {missing}; it has: {', '.join(names)}. Name the right one with data.{setting}=..."
    )


def find_caption_columns(
    names: Sequence[str], given: str | Sequence[str] | None, *, source: object
) -> list[str]:
    """The columns that `data.caption_column` names; null finds a usual one, or `caption_0`, `caption_1`.

    Raises:
        UserError: see `find_column`.
    """
    if given is not None:
        wanted = [given] if isinstance(given, str) else list(given)
        return [find_column(names, [name], source=source, setting="caption_column") for name in wanted]

    keys = {_key(name) for name in names}
    numbered = [] if keys.intersection(CAPTION_COLUMNS) else _numbered(names)
    if not numbered:
        return [find_column(names, CAPTION_COLUMNS, source=source, setting="caption_column")]
    log.info("%s: the captions are the columns %s.", source, ", ".join(numbered))
    return numbered


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
    """The text, when every character is whole.

    Raises:
        UserError: when it holds a lone surrogate, which no file can be written with.
    """
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
    shown = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


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
    except ValueError:
        pass

    inner = text[1:-1].strip()
    closes = text[-1] == {"[": "]", "(": ")"}[text[0]]
    # ("Hello") is a text in brackets; a tuple has a comma.
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


def _numbered(names: Sequence[str]) -> list[str]:
    """Columns `caption_0`, `caption_1`, ... (or another usual word) in the order of their numbers."""
    for word in CAPTION_COLUMNS:
        pattern = re.compile(rf"{word}[ _-]?(\d+)")
        found = [(int(match[1]), name) for name in names if (match := pattern.fullmatch(_key(name)))]
        if found:
            return [name for _, name in sorted(found)]
    return []


def _key(name: str) -> str:
    return name.strip().casefold()
