"""Images named by a table with one caption per row."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from miniclip.data.sources.base import DataSource
from miniclip.data.sources.captions import (
    Captions,
    by_file,
    group_by_image,
    seeded_split,
    split_of_found_files,
)
from miniclip.data.sources.checks import check_val_fraction, existing_path
from miniclip.data.sources.columns import CaptionColumn, ColumnNames, TableRow
from miniclip.data.sources.delimited import read_rows
from miniclip.data.sources.json_table import JSON_ENDINGS, read_json_rows
from miniclip.data.sources.rows import rows_by_part
from miniclip.data.split import SEEDED_VAL, Split
from miniclip.errors import SettingError


class CSVTable(DataSource):
    """A table for training and one for validation, or one for both. Rows that name one image share it.

    Args:
        train_csv, val_csv: the tables, with a header, or JSON (`.jsonl`, `.json`), where a caption may also
            be a list of captions. Without `val_csv` a seeded fraction of the images of `train_csv`
            validates.
        train_root, val_root: the folders that the image column is relative to; `val_root` null is
            `train_root`.
        image_column, caption_column: column names; null finds them among the usual ones. Several caption
            columns hold several captions.
        separator: between the columns; null finds it in the header.
        split_column: column with the name of each row's part, which divides `train_csv` where there is no
            `val_csv`; null for none. Configs from before this setting took no notice of one.
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
        split_column: str | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        **source_settings: Any,
    ):
        super().__init__(**source_settings)
        check_val_fraction(val_fraction)
        if separator is not None and len(separator) != 1:
            raise SettingError("separator", separator, "must be one character, or null to find it")
        is_divided = val_csv is not None
        self.columns = ColumnNames(image_column, caption_column, split=None if is_divided else split_column)
        self.separator = separator
        self.val_fraction = val_fraction
        self.split_seed = split_seed

        self.train_csv = existing_path("train_csv", train_csv)
        self.train_root = existing_path("train_root", train_root, kind="folder")
        self.val_csv = None if val_csv is None else existing_path("val_csv", val_csv)
        self.val_root = self.train_root
        if val_root is not None:
            self.val_root = existing_path("val_root", val_root, kind="folder")

    def splits(self) -> tuple[Split, ...]:
        if self.val_csv is not None:
            train = self._captions(self._rows(self.train_csv), self.train_csv, self.train_root)
            val = self._captions(self._rows(self.val_csv), self.val_csv, self.val_root)
            return self._split("train", train, self.train_root), self._split("val", val, self.val_root)

        parts = {
            part: self._captions(rows, f"{self.train_csv} ({part})", self.train_root)
            for part, rows in self._rows_of_parts().items()
        }
        if "val" not in parts:
            train, val = seeded_split(parts["train"], val_fraction=self.val_fraction, seed=self.split_seed)
            parts = {**parts, "train": train, SEEDED_VAL: val}
        names = [name for name in ("train", "val", SEEDED_VAL, "test") if name in parts]
        return tuple(self._split(name, parts[name], self.train_root) for name in names)

    def _rows_of_parts(self) -> dict[str, Iterable[TableRow]]:
        """The rows of the one table by the parts that a column names; all of them train without one."""
        rows = self._rows(self.train_csv)
        if self.train_csv.suffix.lower() not in JSON_ENDINGS:
            first = next(rows, None)
            if first is None or first.part is None:  # nor has any other row
                return {"train": rows if first is None else chain([first], rows)}
            rows = chain([first], rows)

        every = list(rows)
        if all(row.part is None for row in every):
            return {"train": every}
        places = rows_by_part([row.part or "" for row in every], self.train_csv)
        if places is None:
            return {"train": every}
        return {part: [every[row] for row in own] for part, own in places.items()}

    def _rows(self, table: Path) -> Iterator[TableRow]:
        if table.suffix.lower() in JSON_ENDINGS:
            return read_json_rows(table, self.columns)
        return read_rows(table, self.columns, separator=self.separator)

    def _captions(self, rows: Iterable[TableRow], table: object, root: Path) -> Captions:
        """Captions by file, so that two ways to write one name cannot part an image from itself."""
        return by_file(
            group_by_image((row[:2] for row in rows), table), root, skips_missing=self.skips_broken
        )

    def _split(self, name: str, captions: Captions, root: Path) -> Split:
        return split_of_found_files(name, captions, root, decode_size=self.decode_size)
