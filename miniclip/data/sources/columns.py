"""Columns of tables: which one holds what."""

import logging
import re
from collections.abc import Sequence
from typing import NamedTuple

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

CaptionColumn = str | Sequence[str] | None
"""What `data.caption_column` may be: a name, several, or null to find them."""


class TableRow(NamedTuple):
    """A caption of an image in a table.

    Attributes:
        image: its name.
        caption: "" where it is missing.
        part: what stands in the column that names each row's part; None without such a column.
    """

    image: str
    caption: str
    part: str | None = None


class ColumnNames(NamedTuple):
    """What the user calls the columns.

    Attributes:
        image, caption: None finds them among the usual names.
        label: of the column with each image's class; None for none.
        split: of the column with the name of each row's part; None for none.
    """

    image: str | None = None
    caption: CaptionColumn = None
    label: str | None = None
    split: str | None = None


class Columns(NamedTuple):
    """The columns of a table, as it spells them.

    Attributes:
        image: the images.
        captions: one or several.
        field: of the objects in the captions' column; None where they are no objects.
        label: names of classes.
        split: names of parts.
    """

    image: str
    captions: Sequence[str]
    field: str | None
    label: str | None
    split: str | None

    def every(self) -> list[str]:
        """All of them, each once."""
        optional = [name for name in (self.label, self.split) if name is not None]
        return list(dict.fromkeys([self.image, *self.captions, *optional]))


def find_columns(
    names: Sequence[str], given: ColumnNames, *, source: object, has_objects: bool = False
) -> Columns:
    """The columns that the user names, or the usual ones.

    Args:
        names: the columns of the table.
        source: how an error calls the table.
        has_objects: captions may be objects, of which `caption.en` names the field en.

    Raises:
        UserError: see `find_column`.
    """
    wanted = IMAGE_COLUMNS if given.image is None else [given.image]
    image = find_column(names, wanted, source=source, setting="image_column")

    caption, field = given.caption, None
    if has_objects:
        caption, field = _column_and_field(names, given.caption)
    captions = find_caption_columns(names, caption, source=source)

    label = given.label
    if label is not None:
        label = find_column(names, [label], source=source, setting="class_column")

    # few tables have the column that is looked for unless another is named
    split = given.split
    if split == "split" and split not in [_key(name) for name in names]:
        split = None
    if split is not None:
        split = find_column(names, [split], source=source, setting="split_column")
    return Columns(image, captions, field, label, split)


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


def find_caption_columns(names: Sequence[str], given: CaptionColumn, *, source: object) -> list[str]:
    """The columns that `data.caption_column` names; null finds a usual one, or `caption_0`, `caption_1`.

    Raises:
        UserError: see `find_column`.
    """
    if given is not None:
        return _each_once(names, [given] if isinstance(given, str) else given, source=source)

    usual = [name for name in names if _key(name) in CAPTION_COLUMNS]
    numbered = [name for word in CAPTION_COLUMNS for name in _numbered(names, word)]
    found = next((own for word in CAPTION_COLUMNS if (own := _numbered(names, word))), [])
    if usual or not found:
        found = [find_column(names, CAPTION_COLUMNS, source=source, setting="caption_column")]
    found = _each_once(names, found, source=source)

    unused = [name for name in (*usual, *numbered) if name not in found]
    if len(found) > 1 or unused:
        also = f"; data.caption_column=[...] takes others, too: {', '.join(unused)}" if unused else ""
        log.info("%s: the captions are the columns %s%s.", source, ", ".join(found), also)
    return found


def _each_once(names: Sequence[str], wanted: Sequence[str], *, source: object) -> list[str]:
    """The columns of these names, see `find_column`, none of them twice."""
    found = [find_column(names, [name], source=source, setting="caption_column") for name in wanted]
    return list(dict.fromkeys(found))


def _column_and_field(names: Sequence[str], given: CaptionColumn) -> tuple[CaptionColumn, str | None]:
    """A caption column that the user gave, and its field: `caption.en` is the field en of caption.

    A column whose own name has the dot is preferred.
    """
    if not isinstance(given, str) or "." not in given:
        return given, None
    if given.casefold() in [name.casefold() for name in names]:
        return given, None
    column, _, field = given.partition(".")
    return column, field


def _numbered(names: Sequence[str], word: str) -> list[str]:
    """Columns `caption_0`, `caption_1`, ... of a word in the order of their numbers."""
    pattern = re.compile(rf"{word}[ _-]?(\d+)")
    found = [(int(match[1]), name) for name in names if (match := pattern.fullmatch(_key(name)))]
    return [name for _, name in sorted(found)]


def _key(name: str) -> str:
    return name.strip().casefold()
