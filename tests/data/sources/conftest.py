"""Settings, folders and sources that several tests of sources take."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from miniclip import data
from miniclip.data import CSVTable, DataSource, ImageTextDataset

COMMON: dict[str, Any] = {
    "image_size": 32,
    "crop_scale": [0.5, 1.0],
    "flip": True,
    "limit": None,
    "seed": 0,
}
SEEDED: dict[str, Any] = {"val_fraction": 0.25, "split_seed": 0, **COMMON}
MEASURED: dict[str, Any] = {**SEEDED, "image_size": 16, "eval_split": "val"}
OF_ROWS: dict[str, Any] = {
    "image_column": None,
    "caption_column": None,
    "class_column": None,
    "merge_equal_images": True,
    **SEEDED,
}


@pytest.fixture
def flickr_root(tmp_path: Path, picture_folder: Path) -> Path:
    """Twelve images where Flickr30k has them, still without captions."""
    picture_folder.rename(tmp_path / "flickr30k-images")
    return tmp_path


def token_file(flickr_root: Path) -> None:
    """Write five captions of each image in the original layout."""
    lines = [f"{i}.jpg#{n}\tPicture {i} , caption {n} ." for i in range(12) for n in range(5)]
    (flickr_root / "results_20130124.token").write_text("\n".join(lines) + "\n")


def parquet(root: Path, **changes: Any) -> data.Parquet:
    """A source of parquet files."""
    return data.Parquet(root=str(root), **{**OF_ROWS, **changes})


def hub(root: Path | str, **changes: Any) -> data.Hub:
    """A set of the hub, out of a folder with a copy."""
    pytest.importorskip("datasets")
    parts = {"config": None, "train_split": None, "val_split": None}
    return data.Hub(hub=str(root), **{**OF_ROWS, **parts, **changes})


BOTH = pytest.mark.parametrize("source_of", [parquet, hub])

SourceOf = Callable[..., data.DataSource]


@pytest.fixture
def root(tmp_path: Path, picture_folder: Path) -> Path:
    """A data set's folder, still without images or captions."""
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def images(picture_folder: Path) -> list[dict[str, Any]]:
    """Twelve images as the hub's tables hold them."""
    contents = [(picture_folder / f"{index}.jpg").read_bytes() for index in range(12)]
    return [{"bytes": content, "path": f"{index}.jpg"} for index, content in enumerate(contents)]


def write(path: Path, **columns: Any) -> None:
    """A parquet file of these columns."""
    pyarrow, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pyarrow.table(columns), path)


def titles() -> list[str]:
    """A caption for each of twelve images."""
    return [f"picture {index}" for index in range(12)]


def sizes_by_name(source: data.DataSource) -> dict[str, int]:
    """Number of images in each split; the first one of each data set is read."""
    for part in source.datasets():
        assert part[0][0].shape == (3, 32, 32)
    return {split.name: len(split) for split in source.splits()}


def datasets(source: DataSource) -> tuple[ImageTextDataset, ImageTextDataset]:
    """Both data sets, each with an item read for good measure."""
    both = source.datasets()
    for side in both:
        assert side[0][0].shape == (3, 32, 32)
    return both


def sizes(source: DataSource) -> tuple[str, int, int]:
    """Name of the validation split, and number of images that train and validate."""
    train, val = datasets(source)
    return val.split.name, len(train), len(val)


def put_images(pictures: Path, folder: Path) -> None:
    """Copy all images."""
    shutil.copytree(pictures, folder)


def five_captions(index: int) -> list[str]:
    """The captions of one image."""
    return [f"Caption {number} of picture {index} , with a comma ." for number in range(5)]


@pytest.fixture
def captioned_root(tmp_path: Path, picture_folder: Path) -> Path:
    """Twelve images with a caption beside each."""
    for index in range(12):
        (picture_folder / f"{index}.txt").write_text(f"picture {index}\n")
    return picture_folder


def folder_source(captioned_root: Path, **changes: Any) -> data.Folder:
    """A source of images with texts beside them."""
    return data.Folder(root=str(captioned_root), **{**SEEDED, **changes})


def num_images(source: data.DataSource) -> int:
    """How many images the parts of a source hold; the first of each part is read."""
    parts = source.datasets()
    for part in parts:
        assert part[0][0].shape == (3, 32, 32)
    return sum(len(part.split) for part in parts)


def csv_source(folder: Path, table: Path, **changes: Any) -> CSVTable:
    """A source of one table for training and validation."""
    settings: dict[str, Any] = {
        "train_csv": str(table),
        "train_root": str(folder),
        "val_csv": str(table),
        "val_root": str(folder),
        "image_column": None,
        "caption_column": None,
        "separator": None,
        **COMMON,
    }
    return CSVTable(**settings | changes)


def written(folder: Path, name: str, content: str | bytes) -> Path:
    """A file with this content."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def part_ids(source: DataSource) -> dict[str, list[str]]:
    """Names of the images in each part."""
    return {split.name: list(split.ids) for split in source.read_parts().present()}


def copy_images(pictures: Path, folder: Path, indices: range, name: str = "{}.jpg") -> list[str]:
    """Copy some of the images under other names, which are returned."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [name.format(i) for i in indices]
    for i, new in zip(indices, names, strict=True):
        shutil.copy(pictures / f"{i}.jpg", folder / new)
    return names
