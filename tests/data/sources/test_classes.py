"""Folders of classes: what is a class, what is none, and which part measures."""

import shutil
from pathlib import Path

import pytest

from miniclip import data
from miniclip.data import ImageClasses
from miniclip.errors import SettingError
from tests.data.sources.conftest import MEASURED, SEEDED, copy_images, num_images, part_ids


@pytest.fixture
def classes(tmp_path: Path, picture_folder: Path) -> Path:
    """Folders `cat` and `sea_lion` of six images each, some of them in a folder within."""
    home = tmp_path / "classes"
    for index in range(12):
        path = home / ("cat/young", "sea_lion")[index % 2] / f"{index}.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture_folder / f"{index}.jpg", path)
    return home


def image_classes(captioned_root: Path) -> data.ImageClasses:
    return data.ImageClasses(dataset="ImageFolder", root=str(captioned_root), **SEEDED)


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


def test_a_test_folder_is_no_validation_part(tmp_path: Path, picture_folder: Path) -> None:
    for kind, indices in (("train/a", range(4)), ("train/b", range(4, 8)), ("test/a", range(8, 10))):
        copy_images(picture_folder, tmp_path / kind, indices)
    copy_images(picture_folder, tmp_path / "test/b", range(10, 12))
    source = ImageClasses(dataset="ImageFolder", root=str(tmp_path), **MEASURED)
    assert {n: len(ids) for n, ids in part_ids(source).items()} == {"train": 6, "seeded val": 2, "test": 4}
    # a checkpoint of before trained on all of train, and was measured on test
    old = ImageClasses(dataset="ImageFolder", root=str(tmp_path), **{**MEASURED, "eval_split": None})
    assert {n: len(ids) for n, ids in part_ids(old).items()} == {"train": 8, "test": 4}
    every = ImageClasses(dataset="ImageFolder", root=str(tmp_path), use="all", **MEASURED)
    train, measured = every.datasets()
    assert (len(train), len(measured), measured.split.name) == (0, 12, "all")
    assert sorted(set(measured.split.labels or ())) == ["a", "b"]
    with pytest.raises(SettingError, match="use=all: is for miniclip evaluate"):
        every.training_sets()


@pytest.mark.parametrize("val", [None, "Val", "dev", "holdout"])
def test_parts_are_no_classes(
    classes: Path, picture_folder: Path, val: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    train = classes / "train"
    train.mkdir()
    for name in ("cat", "sea_lion"):
        (classes / name).rename(train / name)
    if val is not None:
        copy_images(picture_folder, classes / val / "cat", range(2))
    is_part = val in ("Val", "dev")
    source = ImageClasses(dataset="ImageFolder", root=str(classes), part_words="usual", **MEASURED)
    measured = {str(val).lower(): 2} if is_part else {"seeded val": 3}
    assert {n: len(ids) for n, ids in part_ids(source).items()} == {
        "train": 12 if is_part else 9,
        **measured,
    }
    assert labels(source) == {"cat", "sea lion"}
    if val is None:  # as configs of before have it
        assert labels(image_classes(classes)) == {"train"}
    assert ("the images beside them are left out: holdout." in caplog.text) == (val == "holdout")


def test_a_part_that_becomes_a_class_is_told(
    classes: Path, picture_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy_images(picture_folder, classes / "val" / "cat", range(3))
    source = ImageClasses(dataset="ImageFolder", root=str(classes), part_words="usual", **SEEDED)
    assert labels(source) == {"cat", "sea lion", "val"}
    assert "its images train and validate alike, also those in val, as no folder" in caplog.text


def test_a_class_may_be_called_train(classes: Path, picture_folder: Path) -> None:
    copy_images(picture_folder, classes / "train", range(3))
    source = ImageClasses(dataset="ImageFolder", root=str(classes), part_words="usual", **SEEDED)
    assert labels(source) == {"cat", "sea lion", "train"}
