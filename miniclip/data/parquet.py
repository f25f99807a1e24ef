"""Parquet files in Hugging Face's image layout."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miniclip.data.captions import seeded_rows
from miniclip.data.columns import CAPTION_COLUMNS, IMAGE_COLUMNS
from miniclip.data.dataset import FolderSource, Split
from miniclip.data.images import ImageBytes
from miniclip.errors import SettingError, UserError

if TYPE_CHECKING:
    import pyarrow

log = logging.getLogger(__name__)

PARTS = {"train": ("train",), "val": ("validation", "val", "valid", "dev")}


class Parquet(FolderSource):
    """Files `train-*.parquet` and `validation-*.parquet` with images as bytes and captions as text.

    Encoded images stay in memory.

    Args:
        image_column, caption_column: column names; null finds them among the usual ones. A caption may be a
            text or a list of texts.
        class_column: column with the name of each image's class; null for none.
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
        **folder_settings: Any,
    ):
        super().__init__(**folder_settings)
        self.image_column = image_column
        self.caption_column = caption_column
        self.class_column = class_column

    def splits(self) -> tuple[Split, Split]:
        files = {part: self._files(names) for part, names in PARTS.items()}
        if not files["train"]:
            raise SettingError("root", self.root, "holds no train*.parquet")
        train = self._split("train", files["train"])
        if files["val"]:
            return train, self._split("val", files["val"])
        rows = seeded_rows(len(train), val_fraction=self.val_fraction, seed=self.split_seed)
        return train.select("train", rows[0]), train.select("seeded val", rows[1])

    def _files(self, names: Sequence[str]) -> list[Path]:
        for folder in (self.root, self.root / "data"):
            for name in names:
                files = sorted([*folder.glob(f"{name}-*.parquet"), *folder.glob(f"{name}.parquet")])
                if files:
                    return files
        return []

    def _split(self, name: str, files: Sequence[Path]) -> Split:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise UserError('data=parquet needs pyarrow: pip install -e ".[data]"') from None
        try:
            columns = pyarrow.parquet.read_schema(files[0]).names
            image = find_column(files[0], columns, "image_column", self.image_column, IMAGE_COLUMNS)
            caption = find_column(files[0], columns, "caption_column", self.caption_column, CAPTION_COLUMNS)
            wanted = [image, caption]
            if self.class_column is not None:
                wanted.append(find_column(files[0], columns, "class_column", self.class_column, ()))
            table = pyarrow.concat_tables(
                pyarrow.parquet.read_table(file, columns=wanted) for file in files
            )
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{files[0].parent}: the parquet files cannot be read ({error}).") from None
        ids = [f"{files[0].name.partition('-')[0]} row {row}" for row in range(len(table))]
        encoded = _bytes_of(table.column(image), files[0], image)
        return split_of_columns(
            name,
            ids,
            ImageBytes(encoded, ids, decode_size=self.decode_size),
            table.column(caption).to_pylist(),
            None if self.class_column is None else table.column(self.class_column).to_pylist(),
            source=f"{files[0]}: the column {caption}",
        )


def split_of_columns(
    name: str,
    ids: Sequence[str],
    images: ImageBytes,
    captions: Iterable[str | list[str] | None],
    labels: Iterable[Any] | None,
    *,
    source: str,
) -> Split:
    """A split from the columns of a table; rows without a caption are left out, with one warning.

    Raises:
        UserError: when no row is left; the text begins with `source`.
    """
    texts = ([cell] if isinstance(cell, str) else cell or [] for cell in captions)
    stripped = [[text.strip() for text in own if text and text.strip()] for own in texts]
    rows = [row for row, own in enumerate(stripped) if own]
    if not rows:
        raise UserError(f"{source} holds no captions.")
    if len(rows) < len(ids):
        log.warning("%s: %d rows without a caption are left out.", source, len(ids) - len(rows))
    names = None if labels is None else ["" if label is None else str(label) for label in labels]
    return Split(name, ids, images, stripped, names).select(name, rows)


def find_column(
    source: object, columns: Sequence[str], setting: str, given: str | None, usual: Sequence[str]
) -> str:
    """The column a setting names, or the first of the usual ones.

    Raises:
        UserError: when there is none; the text names those there are.
    """
    for name in [given] if given is not None else usual:
        if name in columns:
            return name
    raise UserError(
        f"{source} has no column {given or 'named ' + ', '.join(usual)}; it has: {', '.join(columns)}. "
        f"Name the right one with data.{setting}=..."
    )


def _bytes_of(column: "pyarrow.ChunkedArray", file: Path, name: str) -> "pyarrow.ChunkedArray":
    """The encoded images of a column of bytes, or of structs with a field `bytes`."""
    import pyarrow
    import pyarrow.compute

    if pyarrow.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        return pyarrow.compute.struct_field(column, "bytes")
    if pyarrow.types.is_binary(column.type) or pyarrow.types.is_large_binary(column.type):
        return column
    raise UserError(f"{file}: the column {name} is of type {column.type}; images are needed as bytes.")
