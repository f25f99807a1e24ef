"""Parquet files in Hugging Face's image layout, and data sets of its hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miniclip.data.captions import seeded_split
from miniclip.data.dataset import FolderSource, Split
from miniclip.data.images import ImageBytes
from miniclip.data.table import CAPTION_COLUMNS, IMAGE_COLUMNS
from miniclip.errors import SettingError, UserError

if TYPE_CHECKING:
    import pyarrow

PARTS = {"train": ("train",), "val": ("validation", "val", "valid", "dev")}


class Parquet(FolderSource):
    """Files `train-*.parquet` and `validation-*.parquet` with images as bytes and captions as text.

    Encoded images stay in memory.

    Args:
        image_column, caption_column: column names; null finds them among the usual ones. A caption may be a
            text or a list of texts.
        folder_settings: see `FolderSource`.

    Raises:
        UserError: when pyarrow is missing, or the files or a column.
    """

    def __init__(self, *, image_column: str | None, caption_column: str | None, **folder_settings: Any):
        super().__init__(**folder_settings)
        self.image_column = image_column
        self.caption_column = caption_column

    def splits(self) -> tuple[Split, Split]:
        files = {part: self._files(names) for part, names in PARTS.items()}
        if not files["train"]:
            raise SettingError("root", self.root, "holds no train*.parquet")
        train = self._split("train", files["train"])
        if files["val"]:
            return train, self._split("val", files["val"])
        by_id = {str(row): own for row, own in enumerate(train.captions)}
        parts = seeded_split(by_id, val_fraction=self.val_fraction, seed=self.split_seed)
        rows = [[int(row) for row in part] for part in parts]
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
            image = self._column(files[0], columns, "image_column", self.image_column, IMAGE_COLUMNS)
            caption = self._column(
                files[0], columns, "caption_column", self.caption_column, CAPTION_COLUMNS
            )
            table = pyarrow.concat_tables(
                pyarrow.parquet.read_table(file, columns=[image, caption]) for file in files
            )
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{files[0].parent}: the parquet files cannot be read ({error}).") from None
        encoded = _bytes_of(table.column(image), files[0], image)
        texts = [own if isinstance(own, list) else [own] for own in table.column(caption).to_pylist()]
        captions = [[text.strip() for text in own if text and text.strip()] for own in texts]
        rows = [row for row, own in enumerate(captions) if own]
        if not rows:
            raise UserError(f"{files[0]}: the column {caption} holds no captions.")
        ids = [f"{files[0].name.partition('-')[0]} row {row}" for row in range(len(captions))]
        images = ImageBytes(encoded, ids, decode_size=self.decode_size)
        return Split(name, ids, images, captions).select(name, rows)

    def _column(
        self, file: Path, columns: Sequence[str], setting: str, given: str | None, usual: Sequence[str]
    ) -> str:
        for name in [given] if given is not None else usual:
            if name in columns:
                return name
        raise UserError(
            f"{file} has no column {given or 'named ' + ', '.join(usual)}; it has: {', '.join(columns)}. "
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
