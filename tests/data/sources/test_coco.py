"""COCO captions: years, Karpathy's split, and where the images may lie."""

import json
import shutil
from pathlib import Path

import pytest

from miniclip import data
from miniclip.data import (
    CocoCaptions,
)
from miniclip.errors import SettingError
from tests.data.sources.conftest import (
    MEASURED,
    SEEDED,
    copy_images,
    five_captions,
    part_ids,
    put_images,
    sizes,
)


@pytest.mark.parametrize("with_val", [True, False])
@pytest.mark.parametrize("folder", [".", "annotations"])
def test_coco_captions(root: Path, picture_folder: Path, with_val: bool, folder: str) -> None:
    (root / folder).mkdir(exist_ok=True)
    for part, indices in (("train", range(8)), ("val", range(8, 12))):
        if part == "val" and not with_val:
            continue
        put_images(picture_folder, root / f"{part}2017")
        content = {
            "images": [{"id": 100 + i, "file_name": f"{i}.jpg"} for i in indices],
            "annotations": [
                {"image_id": 100 + i, "caption": text} for i in indices for text in five_captions(i)
            ],
        }
        (root / folder / f"captions_{part}2017.json").write_text(json.dumps(content))
    expected = ("val", 8, 4) if with_val else ("seeded val", 6, 2)
    assert sizes(data.CocoCaptions(root=str(root), **SEEDED)) == expected


def coco_json(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    notes = [{"image_id": i, "caption": f"{name} {k}"} for i, name in enumerate(names) for k in range(5)]
    path.write_text(json.dumps({"images": images, "annotations": notes}))


@pytest.mark.parametrize("below", [".", "images"])
def test_karpathys_coco(tmp_path: Path, picture_folder: Path, below: str) -> None:
    root = tmp_path / "coco"
    train = copy_images(picture_folder, root / below / "train2014", range(6), "COCO_train2014_{}.jpg")
    val = copy_images(picture_folder, root / below / "val2014", range(6, 12), "COCO_val2014_{}.jpg")
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
    source = CocoCaptions(root=str(root), **MEASURED)
    found = part_ids(source)
    assert {name: len(ids) for name, ids in found.items()} == {"train": 8, "val": 2, "test": 2}
    assert found["test"] == ["val2014/COCO_val2014_10.jpg", "val2014/COCO_val2014_11.jpg"]
    _, measured = CocoCaptions(root=str(root), **{**MEASURED, "eval_split": "test"}).datasets()
    assert measured.split.name == "test" and measured[0][1] == "COCO_val2014_10.jpg a"


def test_coco_in_a_folder_images_and_of_the_year_with_images(tmp_path: Path, picture_folder: Path) -> None:
    root = tmp_path / "coco"
    for part, indices in (("train", range(8)), ("val", range(8, 12))):
        coco_json(root / f"annotations/captions_{part}2017.json", [f"{i}_of_2017.jpg" for i in indices])
        names = copy_images(picture_folder, root / f"images/{part}2014", indices)
        coco_json(root / f"annotations/captions_{part}2014.json", names)
    found = part_ids(CocoCaptions(root=str(root), **MEASURED))
    assert {name: len(ids) for name, ids in found.items()} == {"train": 8, "val": 4}
    assert found["val"][0] == "8.jpg"
    shutil.rmtree(root / "images")
    with pytest.raises(SettingError, match=r"train2017, train2014"):
        part_ids(CocoCaptions(root=str(root), **MEASURED))


def test_a_second_captions_file_of_a_year_is_told(
    tmp_path: Path, picture_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "coco"
    names = copy_images(picture_folder, root / "train2014", range(8))
    coco_json(root / "annotations/captions_train2014.json", names)
    coco_json(root / "cleaned/captions_train2014.json", names[:4])
    found = part_ids(CocoCaptions(root=str(root), **MEASURED))
    assert sum(map(len, found.values())) == 8
    assert f"{root}/cleaned/captions_train2014.json is not read" in caplog.text
