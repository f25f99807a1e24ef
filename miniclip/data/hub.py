"""Data sets of the Hugging Face hub."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miniclip.data.captions import seeded_rows
from miniclip.data.columns import CAPTION_COLUMNS, IMAGE_COLUMNS
from miniclip.data.dataset import Source, Split, check_val_fraction
from miniclip.data.images import ImageBytes
from miniclip.data.parquet import PARTS, find_column, split_of_columns
from miniclip.errors import SettingError, UserError

if TYPE_CHECKING:
    import datasets


class Hub(Source):
    """A data set with a column of images and one of captions, fetched once and kept by `datasets`.

    Args:
        hub: its name, "user/set" say, or a folder with a copy of it.
        config: which of its configurations; null is its only one.
        train_split, val_split: names of its parts; null finds them among the usual ones. Without a
            validation part a seeded share of the training part validates.
        image_column, caption_column: column names; null finds them among the usual ones. A caption may be a
            text or a list of texts.
        class_column: column with each image's class; null for none.
        val_fraction, split_seed: see `FolderSource`.
        source_settings: see `Source`.

    Raises:
        UserError: when the package datasets is missing, the hub cannot be reached, or a part or column is
            not there.
    """

    def __init__(
        self,
        *,
        hub: str,
        config: str | None,
        train_split: str | None,
        val_split: str | None,
        image_column: str | None,
        caption_column: str | None,
        class_column: str | None,
        val_fraction: float,
        split_seed: int,
        **source_settings: Any,
    ):
        super().__init__(**source_settings)
        check_val_fraction(val_fraction)
        self.hub = hub
        self.config = config
        self.parts = {"train": train_split, "val": val_split}
        self.image_column = image_column
        self.caption_column = caption_column
        self.class_column = class_column
        self.val_fraction = val_fraction
        self.split_seed = split_seed

    def splits(self) -> tuple[Split, Split]:
        loaded = self._loaded()
        names = {part: self._part(part, list(loaded)) for part in PARTS}
        if names["train"] is None:
            raise SettingError("train_split", None, f"must name one of the parts {', '.join(loaded)}")
        train = self._split("train", loaded[names["train"]])
        if names["val"] is not None:
            return train, self._split(self.parts["val"] or "val", loaded[names["val"]])
        rows = seeded_rows(len(train), val_fraction=self.val_fraction, seed=self.split_seed)
        return train.select("train", rows[0]), train.select("seeded val", rows[1])

    def _loaded(self) -> "datasets.DatasetDict":
        try:
            import datasets
        except ImportError:
            raise UserError('data=hub needs datasets: pip install -e ".[data]"') from None
        try:
            return datasets.load_dataset(self.hub, self.config)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"data.hub={self.hub} cannot be loaded: {first_line}. Without a network, download the data "
                "set elsewhere and give its folder: data.hub=FOLDER, or data=parquet data.root=FOLDER."
            ) from None

    def _part(self, part: str, found: Sequence[str]) -> str | None:
        given = self.parts[part]
        if given is not None and given not in found:
            raise SettingError(f"{part}_split", given, f"must be one of {', '.join(found)}")
        return given or next((name for name in PARTS[part] if name in found), None)

    def _split(self, name: str, rows: "datasets.Dataset") -> Split:
        import datasets

        columns = rows.column_names
        image = find_column(self.hub, columns, "image_column", self.image_column, IMAGE_COLUMNS)
        caption = find_column(self.hub, columns, "caption_column", self.caption_column, CAPTION_COLUMNS)
        if not isinstance(rows.features[image], datasets.Image):
            raise UserError(
                f"{self.hub}: the column {image} holds no images; name one: data.image_column=..."
            )
        labels: Any = None
        if self.class_column is not None:
            column = find_column(self.hub, columns, "class_column", self.class_column, ())
            labels, kind = rows[column], rows.features[column]
            if isinstance(kind, datasets.ClassLabel):
                labels = map(kind.int2str, labels)
        ids = [f"{rows.split} row {row}" for row in range(len(rows))]
        files = _Files(rows.select_columns(image).cast_column(image, datasets.Image(decode=False)), image)
        images = ImageBytes(files, ids, decode_size=self.decode_size)
        source = f"{self.hub}: the column {caption}"
        return split_of_columns(name, ids, images, rows[caption], labels, source=source)


class _Files:
    """The contents of a column's image files, None where there is none."""

    def __init__(self, rows: "datasets.Dataset", column: str):
        self.rows = rows
        self.column = column

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> bytes | None:
        cell = self.rows[index][self.column] or {"bytes": None, "path": None}
        if cell["bytes"] is None and cell["path"] is not None and os.path.isfile(cell["path"]):
            return Path(cell["path"]).read_bytes()
        content: bytes | None = cell["bytes"]
        return content
