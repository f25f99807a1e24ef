"""Data sets of the Hugging Face hub."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miniclip.data.dataset import ImageTextDataset, TrainingSets
from miniclip.data.sources.base import DataSource
from miniclip.data.sources.caption_cells import captions_of_rows
from miniclip.data.sources.checks import check_val_fraction
from miniclip.data.sources.class_names import classes_of_rows, with_class_names
from miniclip.data.sources.columns import ColumnNames, find_columns
from miniclip.data.sources.encoded_images import EncodedImages
from miniclip.data.sources.hub_stream import StreamedPart, Streaming, streamed_splits
from miniclip.data.sources.image_cells import check_missing, find_files, image_cells
from miniclip.data.sources.rows import (
    PARTS,
    Rows,
    names_training_rows,
    splits_of_rows,
    whole_splits,
)
from miniclip.data.split import Split
from miniclip.data.streamed import StreamedDataset
from miniclip.errors import HOW_TO_LOG_IN, SettingError, UserError, first_line, without_secrets
from miniclip.files import read_json

if TYPE_CHECKING:
    from datasets import Dataset


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
        streaming: read rows as they come instead of fetching the set, which may be too large for that. The
            first rows validate, and are not trained on. A run that is resumed goes on where it was, but not
            in the same order; the name of the part that validates says so in every result.
        images_per_epoch, shuffle_buffer, val_images, vocabulary_rows: see `Streaming`.
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
        streaming: bool = False,
        images_per_epoch: int | None = None,
        shuffle_buffer: int = 1000,
        val_images: int = 1000,
        vocabulary_rows: int = 10_000,
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
        self.streaming = Streaming(images_per_epoch, shuffle_buffer, val_images, vocabulary_rows)
        self.is_streamed = streaming
        if streaming:
            self.streaming.check()
            self._check_streamed()

    def training_sets(self) -> TrainingSets:
        return self._streamed_sets() if self.is_streamed else super().training_sets()

    def datasets(self) -> tuple[ImageTextDataset, ImageTextDataset]:
        if not self.is_streamed:
            return super().datasets()
        train, val, test = self._streamed_sets()
        if self.eval_split == "test" and test is None:
            raise SettingError("eval_split", "test", "is no part of this data set")
        return train, test if test is not None and self.eval_split == "test" else val

    def splits(self) -> tuple[Split, ...]:
        if self.is_streamed:
            raise SettingError("streaming", True, "keeps no images; here all are needed, so give false")
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

    def _check_streamed(self) -> None:
        """Refuse settings that need all images at hand.

        Raises:
            SettingError: names the first of them.
        """
        for setting, value, allowed in (
            ("captions", self.captions, ("first", "random")),
            ("caption_noise", self.caption_noise, (0,)),
            ("cache", "features" if self.keeps_features else self.pixel_cache.kind, ("none",)),
            ("limit", self.limit, (None,)),
            ("seeded_test_fraction", self.seeded_test_fraction, (0,)),
            ("use", self.use, ("parts",)),
        ):
            if value not in allowed:
                choices = " or ".join("null" if each is None else str(each) for each in allowed)
                raise SettingError(setting, value, f"must be {choices} with data.streaming=true")

    def _streamed_sets(self) -> TrainingSets:
        """What a run needs, of a set whose rows are read as they come."""
        loaded = self._loaded()
        names = self._part_names(list(loaded))
        if "train" not in names:
            raise SettingError("train_split", None, f"must name one of the parts {', '.join(loaded)}")
        parts = {
            part: StreamedPart(loaded[name], hub=self.hub, given=self.columns)
            for part, name in names.items()
        }
        found = streamed_splits(
            parts,
            self.streaming,
            seed=self.seed,
            decode_size=self.decode_size,
            merges=self.merge_equal_images,
        )
        train = StreamedDataset(
            found.train,
            self._training_crop(),
            stream=found.stream,
            images_per_epoch=found.images_per_epoch,
            decode_size=self.decode_size,
            seed=self.seed,
            captions=self.captions,
            max_broken_fraction=self.max_broken_fraction if self.skips_broken else None,
        )
        return TrainingSets(train, *map(self._for_evaluation, found.measured))

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

    def _loaded(self) -> Any:
        """The set's parts by name, as `datasets` gives them: whole, or as streams."""
        try:
            import datasets
        except ImportError:
            raise UserError('data=hub needs datasets: pip install -e ".[data]"') from None

        saved = _saved_files(Path(self.hub))
        name = "arrow" if saved else self.hub
        try:
            return datasets.load_dataset(
                name, self.config, data_files=saved or None, streaming=self.is_streamed
            )
        except Exception as error:  # what the packages below raise has no common type
            raise UserError(self._why_not_loaded(error)) from None

    def _why_not_loaded(self, error: Exception) -> str:
        reason = without_secrets(first_line(error)).rstrip(".")
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

    def _rows(self, rows: "Dataset") -> Rows:
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
        cells = {name: _cells(rows, name) for name in columns.captions}
        return Rows(
            source,
            [f"{rows.split} row {row}" for row in range(len(rows))],
            EncodedImages(_Contents(images, columns.image), files),
            captions_of_rows(cells, columns.field, source=self.hub),
            None
            if columns.label is None
            else classes_of_rows(_cells(rows, columns.label), f"{self.hub}: the column {columns.label}"),
            None if columns.split is None else _cells(rows, columns.split),
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


def _saved_files(folder: Path) -> dict[str, list[str]]:
    """By part the files of a copy that `save_to_disk` of `datasets` wrote; none where it did not.

    Beside them may lie others, in which `map` has kept what it made.

    Raises:
        UserError: when the files that name them are damaged.
    """
    if not folder.is_dir():  # but the name of a set of the hub, or a file
        return {}
    try:
        parts = read_json(folder / "dataset_dict.json").get("splits")
        folders = {part: folder / Path(part).name for part in parts} if parts else {"train": folder}
        files = {part: _files_in_state(home) for part, home in folders.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"data.hub={folder}: its dataset_dict.json, or the state.json of a part, is damaged. Write the "
            "copy again with save_to_disk."
        ) from None
    return {part: names for part, names in files.items() if names}


def _files_in_state(folder: Path) -> list[str]:
    """The files of a part, with [, * and ? escaped, which `datasets` reads as patterns."""
    names = [file["filename"] for file in read_json(folder / "state.json").get("_data_files", ())]
    return [glob.escape(str(folder / Path(name).name)) for name in names]


def _cells(rows: "Dataset", column: str) -> list[Any]:
    """What is in the cells of a column; names in place of the numbers of classes, None for none."""
    feature = rows.features.to_dict()[column]
    cells = rows[column][:]  # at once: one after the other takes a hundred times as long
    return [with_class_names(cell, feature, f"the column {column}") for cell in cells]


class _Contents:
    """The bytes in a column's cells, None where there are none."""

    def __init__(self, rows: "Dataset", column: str):
        self.rows = rows
        self.column = column

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> bytes | None:
        cell: Any = self.rows[index][self.column]
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        return content if isinstance(content, bytes) else None  # or the name of a file
