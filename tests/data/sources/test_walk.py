"""What a walk over a user's folder takes for images, and what it leaves out."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from miniclip import data
from miniclip.data.sources.walk import find_images, visible_files
from miniclip.errors import SettingError, UserError

SETTINGS: dict[str, Any] = {
    "image_size": 32,
    "crop_scale": [0.5, 1.0],
    "flip": True,
    "limit": None,
    "seed": 0,
    "val_fraction": 0.25,
    "split_seed": 0,
}


@pytest.fixture
def root(tmp_path: Path, picture_folder: Path) -> Path:
    """Twelve images with a caption beside each."""
    for index in range(12):
        (picture_folder / f"{index}.txt").write_text(f"picture {index}\n")
    return picture_folder


def folder(root: Path, **changes: Any) -> data.Folder:
    return data.Folder(root=str(root), **{**SETTINGS, **changes})


def num_images(source: data.DataSource) -> int:
    """How many images the parts of a source hold; the first of each part is read."""
    parts = source.datasets()
    for part in parts:
        assert part[0][0].shape == (3, 32, 32)
    return sum(len(part.split) for part in parts)


@pytest.mark.parametrize(
    "copy",
    [
        ".ipynb_checkpoints/0-checkpoint",
        "nested/.hidden/0",
        "._0",
        "__MACOSX/0",
        "__macosx/deep/0",
        "@eaDir/0",
        "$RECYCLE.BIN/0",
    ],
)
def test_hidden_files_and_what_systems_leave_behind_are_left_out(root: Path, copy: str) -> None:
    for ending in (".jpg", ".txt"):
        path = root / f"{copy}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / f"0{ending}", path)
    assert num_images(folder(root)) == 12


def test_a_root_may_itself_be_hidden(root: Path) -> None:
    hidden = root.rename(root.parent / ".pictures")
    assert num_images(folder(hidden)) == 12


@pytest.mark.parametrize("ending", [".heic", ".HEIF", ".svg", ".CR2", ".jxl"])
def test_images_that_pillow_cannot_read_are_counted_in_one_line(
    root: Path, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    for index in range(4):
        (root / f"phone{index}{ending}").write_bytes(b"an image of another kind")
        (root / f"phone{index}.txt").write_text("a dog")
    (root / "extra.nef").write_bytes(b"raw")

    with caplog.at_level(logging.WARNING):
        assert num_images(folder(root)) == 12
    (warning,) = [record.getMessage() for record in caplog.records]
    assert f"5 images left out: {ending.lower()} 4, .nef 1; convert them" in warning


@pytest.mark.parametrize("name", ["licence.pdf", "classes.json", "film.mpg", "table.h5", "notes.txt", "a"])
def test_other_documents_are_no_images(root: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    (root / name).write_bytes(b"a document")
    assert num_images(folder(root)) == 12
    assert not caplog.records


def test_only_regular_files_are_images(root: Path) -> None:
    named_like_an_image = root / "train.png"
    named_like_an_image.mkdir()
    for index in range(6):
        for ending in (".jpg", ".txt"):
            (root / f"{index}{ending}").rename(named_like_an_image / f"{index}{ending}")
    os.mkfifo(root / "pipe.jpg")
    os.mkfifo(root / "0.txt")
    assert num_images(folder(root)) == 12


def test_links_stay_within_the_folder_and_circles_end(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copy(root / "0.jpg", outside / "secret.jpg")
    (root / "nested").mkdir()
    (root / "nested" / "circle").symlink_to(root)
    (root / "again").symlink_to(root / "nested")
    (root / "elsewhere").symlink_to(outside)
    (root / "secret.jpg").symlink_to(outside / "secret.jpg")
    (root / "lost.jpg").symlink_to(root / "nowhere.jpg")
    (root / "nested" / "inner.jpg").symlink_to(root / "0.jpg")

    assert find_images(root) == sorted([*(f"{index}.jpg" for index in range(12)), "nested/inner.jpg"])
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "3 links out of the folder or to nowhere left out" in warning


def test_a_part_that_is_a_link_out_of_the_root_is_refused(root: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "train").symlink_to(root)
    (parts / "val").symlink_to(root)
    with pytest.raises(UserError, match="train leads out of"):
        folder(parts).datasets()


def test_parts_may_link_to_a_pool_in_the_root(root: Path) -> None:
    for index in range(12):
        part = root / ("val" if index < 3 else "train")
        part.mkdir(exist_ok=True)
        for ending in (".jpg", ".txt"):
            (root / "pool").mkdir(exist_ok=True)
            pooled = (root / f"{index}{ending}").rename(root / "pool" / f"{index}{ending}")
            (part / f"{index}{ending}").symlink_to(pooled)
    train, val = folder(root).datasets()
    assert (val.split.name, len(train), len(val)) == ("val", 9, 3)
    assert val[0][1] == "picture 0"


def test_a_folder_that_cannot_be_listed_is_named(root: Path) -> None:
    if os.geteuid() == 0:
        with pytest.raises(UserError, match="nowhere cannot be listed"):
            visible_files(root / "nowhere")
        return
    (root / "nested").mkdir(mode=0)
    with pytest.raises(UserError, match="nested cannot be listed"):
        visible_files(root)


@pytest.mark.parametrize("endings", [(".JPG", ".TXT"), (".Jpeg", ".txt"), (".jpg", ".Txt")])
def test_endings_are_read_in_any_case(root: Path, endings: tuple[str, str]) -> None:
    for index in range(12):
        (root / f"{index}.jpg").rename(root / f"{index}{endings[0]}")
        (root / f"{index}.txt").rename(root / f"{index}{endings[1]}")
    assert num_images(folder(root)) == 12


def test_two_text_files_of_one_image_are_refused(root: Path) -> None:
    (root / "0.TXT").write_text("another caption")
    if len(list(root.glob("0.[tT]*"))) < 2:
        pytest.skip("needs a file system that tells 0.txt from 0.TXT")
    with pytest.raises(UserError, match=r"0\.TXT and 0\.txt"):
        folder(root).datasets()


def test_images_without_a_caption_stop_with_their_count_and_the_fix(root: Path) -> None:
    (root / "1.txt").unlink()
    (root / "2.txt").write_text(" \n\n")
    with pytest.raises(
        UserError, match=r"2 of 12 images .* 1\.jpg, 2\.jpg\. Write a 1\.txt.*data\.on_broken_image=skip"
    ):
        folder(root).datasets()


def test_images_without_a_caption_count_as_broken_where_these_are_skipped(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "1.txt").unlink()
    (root / "2.txt").unlink()
    with pytest.raises(UserError, match=r"more than data\.max_broken_fraction=0\.1: 1\.jpg, 2\.jpg"):
        folder(root, on_broken_image="skip", max_broken_fraction=0.1).datasets()
    assert num_images(folder(root, on_broken_image="skip", max_broken_fraction=0.2)) == 10
    assert "2 of 12 images without captions in a .txt beside them left out" in caplog.text


def test_a_folder_without_any_caption_is_refused_even_where_broken_images_are_skipped(root: Path) -> None:
    for path in root.glob("*.txt"):
        path.unlink()
    with pytest.raises(SettingError, match=r"0\.jpg has no 0\.txt"):
        folder(root, on_broken_image="skip", max_broken_fraction=1.0).datasets()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_captions_in_utf_8_and_utf_16(root: Path, encoding: str) -> None:
    (root / "0.txt").write_text("ein grüner Hügel 犬\n", encoding=encoding)
    captions = [list(own) for part in folder(root).splits() for own in part.captions]
    assert ["ein grüner Hügel 犬"] in captions


@pytest.mark.parametrize("content", ["grün".encode("latin-1"), b"\xff\xfea", bytes(range(256))])
def test_captions_in_another_encoding_are_refused_with_the_name_of_the_file(
    root: Path, content: bytes
) -> None:
    (root / "0.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"0\.txt.* Save (it|the file) as UTF-8"):
        folder(root).datasets()


@pytest.fixture
def classes(tmp_path: Path, picture_folder: Path) -> Path:
    """Folders `cat` and `sea_lion` of six images each, some of them in a folder within."""
    home = tmp_path / "classes"
    for index in range(12):
        path = home / ("cat/young", "sea_lion")[index % 2] / f"{index}.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture_folder / f"{index}.jpg", path)
    return home


def image_classes(root: Path) -> data.ImageClasses:
    return data.ImageClasses(dataset="ImageFolder", root=str(root), **SETTINGS)


def labels(source: data.DataSource) -> set[str]:
    return {label for part in source.datasets() for label in part.split.labels or ()}


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints", "__MACOSX", "cat/.ipynb_checkpoints"])
def test_hidden_folders_are_no_classes(classes: Path, hidden: str) -> None:
    shutil.copytree(classes / "sea_lion", classes / hidden)
    (classes / "cat" / "._0.jpg").write_bytes(b"what macOS leaves")
    assert num_images(image_classes(classes)) == 12
    assert labels(image_classes(classes)) == {"cat", "sea lion"}


def test_what_is_no_class_and_what_is_in_none_is_told(
    classes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (classes / "dog").mkdir()
    (classes / "fox.png").mkdir()
    (classes / "fox.png" / "notes.txt").write_text("no fox yet")
    shutil.copy(classes / "sea_lion" / "1.JPG", classes / "1.jpg")
    assert num_images(image_classes(classes)) == 12
    assert "2 folders without an image, so no class: dog, fox.png." in caplog.text
    assert "1 image in no class's folder left out" in caplog.text


def test_a_folder_of_classes_without_images_is_refused(classes: Path) -> None:
    with pytest.raises(SettingError, match="holds no folder with images; one for each class"):
        image_classes(classes / "sea_lion").datasets()


def test_a_class_may_link_to_another_folder_of_the_root_and_not_out_of_it(
    classes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for part in ("train", "val"):
        (classes / part).mkdir()
        (classes / part / "cat").symlink_to(classes / "cat")
        (classes / part / "dog").symlink_to(tmp_path / "pictures")
    train, val = image_classes(classes).datasets()
    assert len(train) == len(val) == 6
    assert "1 link out of the folder" in caplog.text
