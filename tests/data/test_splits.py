"""Which images train, choose the best checkpoint, and are measured at the end."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from miniclip.config.compose import compose
from miniclip.config.instantiate import make
from miniclip.data import CocoCaptions, DataSource, Flickr8k, Folder, ImageClasses, OpenMoji
from miniclip.errors import SettingError, UserError

COMMON: dict[str, Any] = {
    "image_size": 16,
    "crop_scale": [0.5, 1.0],
    "flip": True,
    "limit": None,
    "seed": 0,
    "eval_split": "val",
}
SEEDED: dict[str, Any] = {"val_fraction": 0.25, "split_seed": 0, **COMMON}


def parts(source: DataSource) -> dict[str, list[str]]:
    return {split.name: list(split.ids) for split in source.read_parts().present()}


def copy(pictures: Path, folder: Path, indices: range, name: str = "{}.jpg") -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [name.format(i) for i in indices]
    for i, new in zip(indices, names, strict=True):
        shutil.copy(pictures / f"{i}.jpg", folder / new)
    return names


def coco_json(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    notes = [{"image_id": i, "caption": f"{name} {k}"} for i, name in enumerate(names) for k in range(5)]
    path.write_text(json.dumps({"images": images, "annotations": notes}))


@pytest.mark.parametrize("below", [".", "images"])
def test_karpathys_coco(tmp_path: Path, picture_folder: Path, below: str) -> None:
    root = tmp_path / "coco"
    train = copy(picture_folder, root / below / "train2014", range(6), "COCO_train2014_{}.jpg")
    val = copy(picture_folder, root / below / "val2014", range(6, 12), "COCO_val2014_{}.jpg")
    kinds = ["train"] * 6 + ["restval"] * 2 + ["val", "val", "test", "test"]
    folders = ["train2014"] * 6 + ["val2014"] * 6
    images = [
        {
            "filepath": folder,
            "filename": name,
            "split": kind,
            "sentences": [{"raw": f"{name} {k}"} for k in "ab"],
        }
        for folder, name, kind in zip(folders, train + val, kinds, strict=True)
    ]
    (root / "dataset_coco.json").write_text(json.dumps({"images": images}))
    source = CocoCaptions(root=str(root), **SEEDED)
    found = parts(source)
    assert {name: len(ids) for name, ids in found.items()} == {"train": 8, "val": 2, "test": 2}
    assert found["test"] == ["val2014/COCO_val2014_10.jpg", "val2014/COCO_val2014_11.jpg"]
    _, measured = CocoCaptions(root=str(root), **{**SEEDED, "eval_split": "test"}).datasets()
    assert measured.split.name == "test" and measured[0][1] == "COCO_val2014_10.jpg a"


def test_coco_in_a_folder_images_and_of_the_year_with_images(tmp_path: Path, picture_folder: Path) -> None:
    root = tmp_path / "coco"
    for part, indices in (("train", range(8)), ("val", range(8, 12))):
        coco_json(root / f"annotations/captions_{part}2017.json", [f"{i}_of_2017.jpg" for i in indices])
        names = copy(picture_folder, root / f"images/{part}2014", indices)
        coco_json(root / f"annotations/captions_{part}2014.json", names)
    found = parts(CocoCaptions(root=str(root), **SEEDED))
    assert {name: len(ids) for name, ids in found.items()} == {"train": 8, "val": 4}
    assert found["val"][0] == "8.jpg"
    shutil.rmtree(root / "images")
    with pytest.raises(SettingError, match=r"train2017, train2014"):
        parts(CocoCaptions(root=str(root), **SEEDED))


def flickr8k(root: Path, pictures: Path, *, lists: bool) -> None:
    copy(pictures, root / "Flicker8k_Dataset", range(10))
    texts = root / "Flickr8k_text"
    texts.mkdir()
    names = [*(f"{i}.jpg" for i in range(10)), "2258277193_586949ec62.jpg.1"]
    lines = [f"{name}#{k}\tcaption {k} of {name}\n" for name in names for k in range(5)]
    (texts / "Flickr8k.token.txt").write_text("".join(lines))
    for part, indices in (("train", range(7)), ("dev", range(7, 9)), ("test", range(9, 10))):
        if lists:
            (texts / f"Flickr_8k.{part}Images.txt").write_text("".join(f"{i}.jpg\n" for i in indices))


def test_the_two_archives_of_flickr8k(tmp_path: Path, picture_folder: Path) -> None:
    flickr8k(tmp_path, picture_folder, lists=True)
    found = parts(Flickr8k(root=str(tmp_path), **SEEDED))
    assert {name: len(ids) for name, ids in found.items()} == {"train": 7, "val": 2, "test": 1}


def test_the_name_without_a_file_in_flickr8k_is_left_out_aloud(
    tmp_path: Path, picture_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flickr8k(tmp_path, picture_folder, lists=False)
    found = parts(Flickr8k(root=str(tmp_path), **SEEDED))
    assert {name: len(ids) for name, ids in found.items()} == {"train": 8, "seeded val": 2}
    assert "Left out 1 of 11 images that captions name" in caplog.text
    (tmp_path / "Flicker8k_Dataset" / "3.jpg").unlink()  # a lost image is another matter
    with pytest.raises(UserError, match=r"3\.jpg"):
        parts(Flickr8k(root=str(tmp_path), **SEEDED))


def test_a_test_folder_is_no_validation_part(tmp_path: Path, picture_folder: Path) -> None:
    for kind, indices in (("train/a", range(4)), ("train/b", range(4, 8)), ("test/a", range(8, 10))):
        copy(picture_folder, tmp_path / kind, indices)
    copy(picture_folder, tmp_path / "test/b", range(10, 12))
    source = ImageClasses(dataset="ImageFolder", root=str(tmp_path), **SEEDED)
    assert {n: len(ids) for n, ids in parts(source).items()} == {"train": 6, "seeded val": 2, "test": 4}
    # a checkpoint of before trained on all of train, and was measured on test
    old = ImageClasses(dataset="ImageFolder", root=str(tmp_path), **{**SEEDED, "eval_split": None})
    assert {n: len(ids) for n, ids in parts(old).items()} == {"train": 8, "test": 4}
    every = ImageClasses(dataset="ImageFolder", root=str(tmp_path), use="all", **SEEDED)
    train, measured = every.datasets()
    assert (len(train), len(measured), measured.split.name) == (0, 12, "all")
    assert sorted(set(measured.split.labels or ())) == ["a", "b"]
    with pytest.raises(SettingError, match="use=all: is for miniclip evaluate"):
        every.training_sets()


def test_a_seeded_test_part_leaves_the_validation_part_as_it_is(picture_folder: Path) -> None:
    for i in range(12):
        (picture_folder / f"{i}.txt").write_text(f"number {i}")
    plain = parts(Folder(root=str(picture_folder), **SEEDED))
    found = parts(Folder(root=str(picture_folder), seeded_test_fraction=0.34, **SEEDED))
    assert found["seeded val"] == plain["seeded val"]
    assert len(found["seeded test"]) == 3
    assert sorted(found["train"] + found["seeded test"]) == sorted(plain["train"])
    for fraction in (-0.1, 1.0):
        with pytest.raises(SettingError, match="seeded_test_fraction"):
            Folder(root=str(picture_folder), seeded_test_fraction=fraction, **SEEDED)


def test_drawings_that_look_alike_are_of_one_part() -> None:
    plain = make(compose(), "data")
    tested = make(compose("data.seeded_test_fraction=0.05"), "data")
    assert isinstance(tested, OpenMoji)
    before, after = parts(plain), parts(tested)
    assert after["val"] == before["val"] and len(after["seeded test"]) > 100
    assert sorted(after["train"] + after["seeded test"]) == sorted(before["train"])
    tested.training_sets()  # finds no leak, and so does not warn


def test_eval_split_names_a_part_there_is(picture_folder: Path) -> None:
    for i in range(12):
        (picture_folder / f"{i}.txt").write_text(f"number {i}")
    source = Folder(root=str(picture_folder), **{**SEEDED, "eval_split": "test"})
    for read in (source.datasets, source.training_sets):
        with pytest.raises(SettingError, match=r"eval_split=test.*seeded_test_fraction"):
            read()
