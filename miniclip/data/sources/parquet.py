"""Parquet files in Hugging Face's image layout."""

import logging
import re
from collections.abc import Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from miniclip.data.sources.base import FolderSource
from miniclip.data.sources.caption_cells import MOST_LETTERS, captions_of_rows
from miniclip.data.sources.class_names import classes_of_rows, features_in_schema, with_class_names
from miniclip.data.sources.columns import ColumnNames, Columns, find_columns
from miniclip.data.sources.encoded_images import EncodedImages
from miniclip.data.sources.image_cells import check_missing, find_files, image_cells
from miniclip.data.sources.parquet_size import check_size
from miniclip.data.sources.rows import (
    PARTS,
    Rows,
    names_training_rows,
    splits_of_rows,
    whole_splits,
)
from miniclip.data.sources.walk import examples, is_visible
from miniclip.data.split import Split
from miniclip.errors import SettingError, UserError, counted, first_line

log = logging.getLogger(__name__)

SHARD = re.compile(r"-\d+-of-(\d+)$")

BYTES_OF_LETTER = 4
"""In UTF-8, at most."""


class Parquet(FolderSource):
    """Files `train-*.parquet`, `validation-*.parquet` and `test-*.parquet` with images and captions.

    The usual other words (`PARTS`) may stand for these; what is called otherwise is told and left out.

    Images are bytes, or names of files beside the table. Files of one part alone are divided by their
    column `split`. Encoded images stay in memory.

    Args:
        image_column, caption_column: column names; null finds them among the usual ones. A caption may be a
            text or a list of texts; `caption.en` is the field en of objects.
        class_column: column with the name of each image's class; null for none.
        split_column: column with the name of each row's part; null for none.
        merge_equal_images: make rows of equal images one image with several captions. Configs from before
            this setting kept an image for each row.
        folder_settings: see `FolderSource`.

    Raises:
        UserError: when pyarrow is missing, or the files or a column.
    """

    def __init__(
        self,
        *,
        image_column: str | None,
        caption_column: str | None,
        class_column: str | None,
        split_column: str | None = "split",
        merge_equal_images: bool = False,
        **folder_settings: Any,
    ):
        super().__init__(**folder_settings)
        self.columns = ColumnNames(image_column, caption_column, class_column, split_column)
        self.merge_equal_images = merge_equal_images

    def splits(self) -> tuple[Split, ...]:
        files = {part: self._files(words) for part, words in PARTS.items()}
        self._tell_what_is_in_no_part([path for paths in files.values() for path in paths])
        parts = {part: self._rows(paths) for part, paths in files.items() if paths}
        if self.use == "all" and parts:
            return whole_splits(parts, decode_size=self.decode_size)

        if "train" not in parts:
            # a set whose only part is called test may still hold its whole split in a column.
            rows = next(iter(parts.values())) if len(parts) == 1 else None
            if rows is None or not names_training_rows(rows):
                raise SettingError("root", self.root, self._no_training_files())
            parts = {"train": rows}

        return splits_of_rows(
            parts,
            decode_size=self.decode_size,
            val_fraction=self.val_fraction,
            split_seed=self.split_seed,
        )

    def _tell_what_is_in_no_part(self, used: Sequence[Path]) -> None:
        """Warn of files beside those of the parts, which are not read."""
        others = [path.name for path in self._all_files() if path not in used]
        if used and others:
            log.warning("%s: parquet files of no part are left out: %s.", self.root, examples(others))

    def _no_training_files(self) -> str:
        names = [path.name for path in self._all_files()]
        found = f"; it holds {examples(names)}" if names else ""
        return f"holds no train*.parquet{found}"

    def _folders(self) -> list[Path]:
        return [self.root, self.root / "data"]

    def _all_files(self) -> list[Path]:
        return [path for folder in self._folders() for path in _parquet_files(folder)]

    def _files(self, words: Sequence[str]) -> list[Path]:
        for folder in self._folders():
            for word in words:
                pattern = re.compile(rf"{word}(-.*)?", re.IGNORECASE)
                files = [path for path in _parquet_files(folder) if pattern.fullmatch(path.stem)]
                if files:
                    _tell_missing_shards(files)
                    return files
        return []

    def _rows(self, files: Sequence[Path]) -> Rows:
        columns, tables, table = self._read(files)
        first = files[0]

        images = f"{first}: the column {columns.image}"
        contents, has_bytes, paths = image_cells(table.column(columns.image), images)
        folders = [first.parent, self.root]
        found, missing = find_files(paths, has_bytes, folders, self.root, images)
        if not self.skips_broken:
            check_missing(missing, paths, first.parent, images)

        for name in columns.captions:
            _check_lengths(table.column(name), f"{first}: the column {name}")
        features = [(features_in_schema(each.schema.metadata), len(each)) for each in tables]

        def cells_of(name: str) -> list[Any]:
            where = f"{first}: the column {name}"
            # each file has names of its own for the numbers of its classes
            of_rows = chain.from_iterable(repeat(each.get(name), num_rows) for each, num_rows in features)
            cells = zip(table.column(name).to_pylist(), of_rows, strict=True)
            return [with_class_names(cell, feature, where) for cell, feature in cells]

        captions = {name: cells_of(name) for name in columns.captions}
        labels = None
        if columns.label is not None:
            labels = classes_of_rows(cells_of(columns.label), f"{first}: the column {columns.label}")
        return Rows(
            f"{first}: the column {', '.join(columns.captions)}",
            [f"{first.stem.partition('-')[0]} row {row}" for row in range(len(table))],
            EncodedImages(contents, found),
            captions_of_rows(captions, columns.field, source=first),
            labels,
            None if columns.split is None else cells_of(columns.split),
            self.merge_equal_images,
        )

    def _read(self, files: Sequence[Path]) -> tuple[Columns, list[Any], Any]:
        """The columns of the files of a part, the table of each file, and that of all.

        Raises:
            UserError: when the files cannot be read, or do not fit each other.
        """
        try:
            import pyarrow
            import pyarrow.compute
            import pyarrow.parquet
        except ImportError:
            raise UserError('data=parquet needs pyarrow: pip install -e ".[data]"') from None

        try:
            names = pyarrow.parquet.read_schema(files[0]).names
            columns = find_columns(names, self.columns, source=files[0], has_objects=True)
            check_size(files, columns.every(), held_once=columns.captions)
            # a text that a file holds once for many rows is held once in memory, too
            tables = [
                pyarrow.parquet.read_table(
                    file, columns=columns.every(), read_dictionary=list(columns.captions)
                )
                for file in files
            ]
            # a column that is empty in one of the files has no type there
            return columns, tables, pyarrow.concat_tables(tables, promote_options="permissive")
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(
                f"{files[0].parent}: the parquet files cannot be read ({first_line(error)}). Write the "
                "files of a part with equal columns, or take the damaged one away."
            ) from None


def _check_lengths(column: Any, where: str) -> None:
    """Refuse a text, before it is written out for each of its rows, that is too long for a caption.

    Args:
        column: an Arrow column; of texts that are held once for many rows.

    Raises:
        UserError: when one of these has more bytes than `MOST_LETTERS` can have.
    """
    import pyarrow

    for chunk in column.chunks:
        if not isinstance(chunk, pyarrow.DictionaryArray) or not _is_text(chunk.dictionary.type):
            continue
        num_bytes = pyarrow.compute.max(pyarrow.compute.binary_length(chunk.dictionary)).as_py() or 0
        if num_bytes > BYTES_OF_LETTER * MOST_LETTERS:
            raise UserError(
                f"{where}: a caption has {num_bytes:,} bytes, more than {MOST_LETTERS:,} letters. "
                "Shorten or remove it."
            )


def _is_text(kind: Any) -> bool:
    import pyarrow

    return pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)


def _tell_missing_shards(files: Sequence[Path]) -> None:
    """Warn where the names say that there are more files: `train-00000-of-00002.parquet` alone."""
    announced = [int(match[1]) for path in files if (match := SHARD.search(path.stem))]
    if announced and len(announced) < max(announced):
        log.warning(
            "%s: there is only %s of %d, like %s; the rest is missing.",
            files[0].parent,
            counted(len(announced), "file"),
            max(announced),
            files[0].name,
        )


def _parquet_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if path.suffix.lower() == ".parquet"]
    return sorted(path for path in paths if is_visible(path.name) and path.is_file())
