"""Images in columns: bytes, files beside the table, and none at all."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from miniclip.errors import UserError
from tests.data.sources.conftest import BOTH, SourceOf, parquet, sizes_by_name, titles, write

pyarrow = pytest.importorskip("pyarrow")


pq = pytest.importorskip("pyarrow.parquet")


def test_the_fields_of_the_images_are_found_in_any_case(root: Path, images: Any) -> None:
    cells = [{"Bytes": cell["bytes"], "PATH": cell["path"]} for cell in images]
    write(root / "train.parquet", image=cells, caption=titles())
    assert sizes_by_name(parquet(root)) == {"train": 9, "seeded val": 3}


@BOTH
@pytest.mark.parametrize("in_objects", [True, False])
def test_images_may_be_files_beside_the_table(
    root: Path, picture_folder: Path, source_of: SourceOf, in_objects: bool
) -> None:
    shutil.copytree(picture_folder, root / "images")
    paths: list[Any] = [f"images/{index}.jpg" for index in range(12)]
    if in_objects:
        paths = [{"bytes": None, "path": path} for path in paths]
        column = pyarrow.array(paths, pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}))
    else:
        column = pyarrow.array(paths)
    write(root / "train.parquet", image=column, caption=titles())
    assert sizes_by_name(source_of(root)) == {"train": 9, "seeded val": 3}


@BOTH
def test_images_that_are_nowhere_stop_when_the_table_is_read(root: Path, source_of: SourceOf) -> None:
    write(root / "train.parquet", image=[f"images/{index}.jpg" for index in range(12)], caption=titles())
    with pytest.raises(UserError, match=r"no images in 12 of 12 rows, only names of files .*images/0\.jpg"):
        source_of(root).splits()


def test_rows_without_any_image_stop_or_are_skipped(root: Path, images: Any) -> None:
    write(root / "train.parquet", image=[None, *images[1:]], caption=titles())
    with pytest.raises(UserError, match="has 1 row without an image, like row 0"):
        parquet(root).splits()
    skipping = parquet(root, on_broken_image="skip", max_broken_fraction=0.5)
    assert sum(len(split) for split in skipping.splits()) == 12


@BOTH
@pytest.mark.parametrize("kind", ["parent", "absolute", "link"])
def test_images_out_of_the_folder_are_not_opened(
    root: Path, picture_folder: Path, source_of: SourceOf, kind: str
) -> None:
    (root / "link.jpg").symlink_to(picture_folder / "0.jpg")
    outside = str(picture_folder / "0.jpg")
    name = {"parent": "../pictures/0.jpg", "absolute": outside, "link": "link.jpg"}[kind]
    write(root / "train.parquet", image=[name] * 12, caption=titles())
    with pytest.raises(UserError, match=r"row 0: the image .* lies outside the folder"):
        source_of(root).splits()
