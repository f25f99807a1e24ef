"""Data sets of the Hugging Face hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miniclip.data.sources.base import DataSource
from miniclip.data.sources.caption_cells import captions_of_rows
from miniclip.data.sources.checks import check_val_fraction
from miniclip.data.sources.columns import ColumnNames, find_columns
from miniclip.data.sources.image_cells import EncodedImages, check_missing, find_files, image_cells
from miniclip.data.sources.rows import PARTS, Rows, names_training_rows, splits_of_rows, whole_splits
from miniclip.data.split import Split
from miniclip.errors import HOW_TO_LOG_IN, SettingError, UserError, without_secrets

if TYPE_CHECKING:
    import datasets


class Hub(DataSource):
    """A data set with a column of images and one of captions, fetched once and kept by `datasets`.

    A set whose only part has a column `split` is divided by it, as Flickr30k of the hub is.

    Args:
        hub: its name, "user/set" say, or a folder with a copy of it.
        config: which of its configurations; null is its only one.
        train_split, val_split: names of its parts; null finds them among the usual ones. Without a
            validation part a seeded fraction of the training part validates. A part called test is the
            test part.
        image_column, caption_column: column names; null finds them among the usual ones. A caption may be a
            text or a list of texts; `caption.en` is the field en of objects.
        class_column: column with each image's class; null for none.
        split_column: column with the name of each row's part; null for none.
        merge_equal_images: make rows of equal images one image with several captions. Configs from before
            this setting kept an image for each row.
        val_fraction, split_seed: see `FolderSource`.
        source_settings: see `DataSource`.

    Raises:
        UserError: when the package datasets is missing, the hub cannot be reached, or a part or column is
            not there.
    """

    places = (*DataSource.places, "hub")

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
        split_column: str | None = "split",
        merge_equal_images: bool = False,
        **source_settings: Any,
    ):
        super().__init__(**source_settings)
        check_val_fraction(val_fraction)
        if without_secrets(hub) != hub and not Path(hub).exists():
            raise SettingError("hub", without_secrets(hub), HOW_TO_LOG_IN)
        self.hub = hub
        self.config = config
        self.parts = {"train": train_split, "val": val_split}
        self.columns = ColumnNames(image_column, caption_column, class_column, split_column)
        self.merge_equal_images = merge_equal_images
        self.val_fraction = val_fraction
        self.split_seed = split_seed

    def splits(self) -> tuple[Split, ...]:
        loaded = self._loaded()
        if self.use == "all":
            parts = {name: self._rows(rows) for name, rows in loaded.items()}
            return whole_splits(parts, decode_size=self.decode_size)
        names = self._part_names(list(loaded))
        parts = {part: self._rows(loaded[name]) for part, name in names.items()}

        # a set whose only part is called test may still hold its whole split in a column.
        whole = next(iter(parts.values())) if len(parts) == 1 and len(loaded) == 1 else None
        if "train" not in parts and whole is not None and names_training_rows(whole):
            parts = {"train": whole}
        if "train" not in parts:
            raise SettingError("train_split", None, f"must name one of the parts {', '.join(loaded)}")

        splits = splits_of_rows(
            parts,
            decode_size=self.decode_size,
            val_fraction=self.val_fraction,
            split_seed=self.split_seed,
        )
        if "val" in names and self.parts["val"] is not None:
            splits[1].name = self.parts["val"]
        return splits

    def _part_names(self, found: Sequence[str]) -> dict[str, str]:
        """What the set calls its training, validation and test part; a part is used once."""
        names: dict[str, str] = {}
        for part, words in PARTS.items():
            given = self.parts.get(part)
            if given is not None and given not in found:
                raise SettingError(f"{part}_split", given, f"must be one of {', '.join(found)}")
            name = given or next((word for word in words if word in found), None)
            if name is not None and (given is not None or name not in self.parts.values()):
                names[part] = name
        return names if names or len(found) != 1 else {"test": found[0]}

    def _loaded(self) -> "datasets.DatasetDict":
        try:
            import datasets
        except ImportError:
            raise UserError('data=hub needs datasets: pip install -e ".[data]"') from None
        try:
            return datasets.load_dataset(self.hub, self.config)
        except Exception as error:  # what the packages below raise has no common type
            raise UserError(self._why_not_loaded(error)) from None

    def _why_not_loaded(self, error: Exception) -> str:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        reason = without_secrets(first_line).rstrip(".")
        copy = "give a folder with a copy of it: data.hub=FOLDER, or data=parquet data.root=FOLDER."
        if "script" in reason:
            return (
                f"data.hub={self.hub} cannot be loaded: it is a loader script, which datasets no longer "
                f"runs ({reason}). Take a set of parquet files instead, or {copy}"
            )
        return (
            f"data.hub={self.hub} cannot be loaded: {reason}. Without a network, or for a private set, "
            f"download it elsewhere and {copy}"
        )

    def _rows(self, rows: "datasets.Dataset") -> Rows:
        import datasets

        columns = find_columns(rows.column_names, self.columns, source=self.hub, has_objects=True)
        images = rows.select_columns(columns.image)
        if isinstance(rows.features[columns.image], datasets.Image):
            images = images.cast_column(columns.image, datasets.Image(decode=False))

        source = f"{self.hub}: the column {columns.image}"
        _, has_bytes, paths = image_cells(images.with_format("arrow")[:].column(columns.image), source)
        files, missing = self._find_files(paths, has_bytes, source)
        if not self.skips_broken:
            check_missing(missing, paths, Path(self.hub), source)

        source = f"{self.hub}: the column {', '.join(columns.captions)}"
        cells = {name: rows[name] for name in columns.captions}
        return Rows(
            source,
            [f"{rows.split} row {row}" for row in range(len(rows))],
            EncodedImages(_Contents(images, columns.image), files),
            captions_of_rows(cells, columns.field, source=self.hub),
            _names(rows, columns.label),
            _names(rows, columns.split),
            self.merge_equal_images,
        )

    def _find_files(
        self, paths: Sequence[str | None], has_bytes: Sequence[bool], source: str
    ) -> tuple[list[str | None], list[int]]:
        """See `find_files`; images lie in the folder of a copy, or where `datasets` unpacks archives."""
        import datasets
        from huggingface_hub.constants import HF_HUB_CACHE

        for cache in (datasets.config.HF_DATASETS_CACHE, HF_HUB_CACHE):
            unpacked = Path(cache).expanduser().absolute()
            if any(path and Path(path).is_relative_to(unpacked) for path in paths):
                return find_files(paths, has_bytes, [unpacked], unpacked, source)

        folder = Path(self.hub).absolute()
        return find_files(paths, has_bytes, [folder], folder, source)


def _names(rows: "datasets.Dataset", column: str | None) -> list[str] | None:
    """The texts of a column, whose numbers may stand for names."""
    import datasets

    if column is None:
        return None
    values, kind = rows[column], rows.features[column]
    if isinstance(kind, datasets.ClassLabel):
        values = [None if value is None else kind.int2str(value) for value in values]
    return ["" if value is None else str(value) for value in values]


class _Contents:
    """The bytes in a column's cells, None where there are none."""

    def __init__(self, rows: "datasets.Dataset", column: str):
        self.rows = rows
        self.column = column

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> bytes | None:
        cell: Any = self.rows[index][self.column]
        return cell.get("bytes") if isinstance(cell, dict) else cell
