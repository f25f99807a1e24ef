"""Images named by a table with one caption a row."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from miniclip.data.captions import group_by_image, split_of_files
from miniclip.data.columns import CAPTION_COLUMNS, IMAGE_COLUMNS
from miniclip.data.dataset import Source, Split, existing_path
from miniclip.errors import SettingError, UserError

SEPARATORS = (",", "\t", ";", "|")

csv.field_size_limit(2**31 - 1)  # a caption may be longer than the 128 KiB the module allows


class CSVTable(Source):
    """Two tables, one for training and one for validation. Rows that name one image share it.

    Args:
        train_csv, val_csv: the tables, UTF-8: with a header, or JSON lines (`.jsonl`), where a caption may
            also be a list of captions.
        train_root, val_root: the folders that the image column is relative to.
        image_column, caption_column: column names; null finds them among the usual ones.
        separator: between the columns; null finds it in the header.
        source_settings: see `Source`.
    """

    def __init__(
        self,
        *,
        train_csv: str,
        train_root: str,
        val_csv: str,
        val_root: str,
        image_column: str | None,
        caption_column: str | None,
        separator: str | None,
        **source_settings: Any,
    ):
        super().__init__(**source_settings)
        if separator is not None and len(separator) != 1:
            raise SettingError("separator", separator, "must be one character, or null to find it")
        self.image_column = image_column
        self.caption_column = caption_column
        self.separator = separator
        self.tables = {
            "train": (
                existing_path("train_csv", train_csv),
                existing_path("train_root", train_root, kind="folder"),
            ),
            "val": (
                existing_path("val_csv", val_csv),
                existing_path("val_root", val_root, kind="folder"),
            ),
        }

    def splits(self) -> tuple[Split, Split]:
        return self._split("train"), self._split("val")

    def _split(self, name: str) -> Split:
        table, root = self.tables[name]
        columns = {"image_column": self.image_column, "caption_column": self.caption_column}
        if table.suffix in (".jsonl", ".ndjson"):
            rows = read_json_lines(table, **columns)
        else:
            rows = read_table(table, **columns, separator=self.separator)
        captions = group_by_image(rows, table)
        return split_of_files(
            name, captions, root, decode_size=self.decode_size, skips_missing=self.skips_broken
        )


def read_table(
    path: Path,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    separator: str | None = None,
) -> Iterator[tuple[str, str]]:
    """Rows of a table as (image name, caption).

    Raises:
        UserError: when the file is empty, is not UTF-8, lacks a column (the text names those it has), or
            has a row of another length.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header_line = file.readline()
            if not header_line.strip():
                raise UserError(f"{path} is empty; it needs a header and one caption a row.")
            delimiter = separator or max(SEPARATORS, key=header_line.count)
            header = [column.strip() for column in next(csv.reader([header_line], delimiter=delimiter))]
            image = _column(path, header, "image_column", image_column, IMAGE_COLUMNS)
            caption = _column(path, header, "caption_column", caption_column, CAPTION_COLUMNS)
            rows = csv.reader(file, delimiter=delimiter)
            for row in rows:
                if len(row) > max(image, caption):
                    yield row[image], row[caption]
                elif row:
                    raise UserError(
                        f"{path}, line {rows.line_num + 1}: {len(row)} columns where the header has "
                        f"{len(header)}. Quote captions that hold the separator {delimiter!r}."
                    )
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a UTF-8 table ({error}).") from None


def read_json_lines(
    path: Path, *, image_column: str | None = None, caption_column: str | None = None
) -> Iterator[tuple[str, str]]:
    """Rows of a file with one JSON object a line as (image name, caption).

    Raises:
        UserError: when a line is no object, or lacks the image or the caption.
    """
    with open(path, encoding="utf-8-sig", errors="strict") as file:
        keys: tuple[str, str] | None = None
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: no JSON ({error}).") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: not an object with an image and a caption.")
            if keys is None:
                header = list(map(str, row))
                image = _column(path, header, "image_column", image_column, IMAGE_COLUMNS)
                caption = _column(path, header, "caption_column", caption_column, CAPTION_COLUMNS)
                keys = header[image], header[caption]
            name, captions = (row.get(key) for key in keys)
            if not isinstance(name, str):
                raise UserError(f"{path}, line {number}: {keys[0]} is not the name of an image.")
            for text in captions if isinstance(captions, list) else [captions]:
                yield name, text if isinstance(text, str) else ""


def _column(path: Path, header: list[str], setting: str, given: str | None, usual: tuple[str, ...]) -> int:
    lower = [column.lower() for column in header]
    for name in [given.lower()] if given is not None else usual:
        if name in lower:
            return lower.index(name)
    wanted = f"no column {given}" if given is not None else f"none of the columns {', '.join(usual)}"
    raise UserError(
        f"{path} has {wanted}; it has: {', '.join(header)}. Name the right one with "
        f"data.{setting}=... (and the separator with data.separator=... if it was split wrongly)."
    )
