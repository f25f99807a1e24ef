"""Images in columns: bytes, files beside the table, and none at all."""

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

from miniclip.data.sources import encoded_images
from miniclip.errors import BrokenImage, UserError
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
def test_files_beside_the_table_are_not_read_before_training(
    root: Path, picture_folder: Path, source_of: SourceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are of different sizes, so that no two can be equal."""
    for number in range(12):
        content = (picture_folder / f"{number}.jpg").read_bytes()
        (root / f"{number}.jpg").write_bytes(content + bytes(1000 * number))
    write(root / "train.parquet", image=[f"{number}.jpg" for number in range(12)], caption=titles())
    source = source_of(root)
    with monkeypatch.context() as patch:
        patch.setattr(encoded_images, "read_content", None)
        train = source.training_sets().train
        identity = train.split.images.identity
    (root / f"{train.split.ids[0].split()[-1]}.jpg").write_bytes(b"another image")
    assert source.training_sets().train.split.images.identity != identity


def test_a_file_that_cannot_be_read_is_a_broken_image(
    root: Path, picture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(picture_folder, root / "images")
    write(root / "train.parquet", image=[f"images/{row}.jpg" for row in range(12)], caption=titles())
    train = parquet(root).training_sets().train

    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BrokenImage, match=r"images/\d+\.jpg cannot be read \(Permission denied\)"):
        _ = train[0]


@pytest.mark.parametrize("kind", ["dictionary", "string_view", "binary_view"])
def test_columns_as_other_libraries_write_them(root: Path, picture_folder: Path, kind: str) -> None:
    for number in range(12):
        shutil.copy(picture_folder / f"{number}.jpg", root)
    names = pyarrow.array([f"{number // 2}.jpg" for number in range(12)])
    if kind == "dictionary":
        column = names.dictionary_encode()
    elif kind == "string_view":
        column = names.cast(pyarrow.string_view())
    else:
        contents = [(root / name).read_bytes() for name in names.to_pylist()]
        column = pyarrow.array(contents, pyarrow.binary_view())
    write(root / "train.parquet", image=column, caption=titles())
    train, val = parquet(root).splits()
    assert (len(train), len(val)) == (4, 2) and len(train.captions[0]) == 2


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
