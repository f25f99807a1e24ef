"""Flickr8k and Flickr30k: layouts written in their exact format, and real files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from miniclip import data
from miniclip.data import (
    Flickr8k,
    Flickr30k,
)
from miniclip.errors import SettingError, UserError
from tests.data.sources.conftest import (
    MEASURED,
    SEEDED,
    copy_images,
    datasets,
    five_captions,
    part_ids,
    put_images,
    sizes,
    token_file,
)


def test_the_original_token_file(flickr_root: Path) -> None:
    token_file(flickr_root)
    train, val = Flickr30k(root=str(flickr_root), **SEEDED).splits()
    assert (len(train), len(val)) == (9, 3)
    assert val.name == "seeded val"
    assert set(train.ids).isdisjoint(val.ids)
    for split in (train, val):
        assert all(len(own) == 5 for own in split.captions)
        number = split.ids[0].removesuffix(".jpg")
        assert split.captions[0][2] == f"Picture {number} , caption 2 ."


def test_karpathys_split_is_used_when_present(flickr_root: Path) -> None:
    token_file(flickr_root)
    parts = ["train"] * 6 + ["restval"] * 2 + ["val"] * 2 + ["test"] * 2
    images = [
        {"filename": f"{i}.jpg", "split": part, "sentences": [{"raw": f"raw {i}"}] * 5}
        for i, part in enumerate(parts)
    ]
    (flickr_root / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    train, val, test = Flickr30k(root=str(flickr_root), **SEEDED).splits()
    assert (len(train), list(val.ids), val.name) == (8, ["8.jpg", "9.jpg"], "val")
    assert (list(test.ids), test.name) == (["10.jpg", "11.jpg"], "test")
    assert list(val.captions[0]) == ["raw 8"] * 5


def test_a_folder_without_captions_or_images_says_what_it_wants(
    flickr_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(SettingError, match=r"results_20130124\.token"):
        Flickr30k(root=str(flickr_root), **SEEDED).splits()
    with pytest.raises(SettingError, match="flickr30k-images"):
        Flickr30k(root=str(tmp_path_factory.mktemp("empty")), **SEEDED).splits()


def test_real_photographs(real_data: Path) -> None:
    train, val = Flickr8k(root=str(real_data / "flickr8k_1k"), **SEEDED).datasets()
    assert len(train) + len(val) == 1000
    assert sum(len(own) for own in train.split.captions) == 5 * len(train)
    image, caption = train[0]
    assert image.shape == (3, 32, 32) and caption in train.split.captions[0]


@pytest.mark.parametrize("folder", ["flickr30k-images", "flickr30k_images/flickr30k_images", "Images", "."])
def test_flickr30k_original(root: Path, picture_folder: Path, folder: str) -> None:
    shutil.copytree(picture_folder, root / folder, dirs_exist_ok=True)
    lines = [f"{i}.jpg#{k}\t{text}\n" for i in range(12) for k, text in enumerate(five_captions(i))]
    (root / "results_20130124.token").write_text("".join(lines))
    source = data.Flickr30k(root=str(root), **SEEDED)
    assert sizes(source) == ("seeded val", 9, 3)
    assert [len(own) for own in datasets(source)[0].split.captions] == [5] * 9


@pytest.mark.parametrize("source_type", [data.Flickr30k, data.Flickr8k])
def test_karpathy(root: Path, picture_folder: Path, source_type: Any) -> None:
    put_images(picture_folder, root / "Images")
    parts = ["train"] * 6 + ["restval"] * 2 + ["val"] * 3 + ["test"]
    images = [
        {"filename": f"{i}.jpg", "split": part, "sentences": [{"raw": text} for text in five_captions(i)]}
        for i, part in enumerate(parts)
    ]
    (root / source_type.split_file).write_text(json.dumps({"images": images}))
    assert sizes(source_type(root=str(root), **SEEDED)) == ("val", 8, 3)
    assert sizes(source_type(root=str(root), eval_split="test", **SEEDED)) == ("test", 8, 1)


def test_flickr30k_of_hugging_face(root: Path, picture_folder: Path) -> None:
    put_images(picture_folder, root / "flickr30k-images")
    parts = ["train"] * 8 + ["val"] * 3 + ["test"]
    rows = [
        '"{}","[{}]",{},{}.jpg,{}\n'.format(json.dumps(five_captions(i)).replace('"', '""'), i, part, i, i)
        for i, part in enumerate(parts)
    ]
    (root / "flickr_annotations_30k.csv").write_text("raw,sentids,split,filename,img_id\n" + "".join(rows))
    train, val = datasets(data.Flickr30k(root=str(root), **SEEDED))
    assert (val.split.name, len(train), len(val)) == ("val", 8, 3)
    assert list(train.split.captions[3]) == five_captions(3)


def test_flickr8k_split_lists(root: Path, picture_folder: Path) -> None:
    put_images(picture_folder, root / "Flicker8k_Dataset")
    lines = [f"{i}.jpg#{k}\t{text}\n" for i in range(12) for k, text in enumerate(five_captions(i))]
    (root / "Flickr8k.token.txt").write_text("".join(lines))
    (root / "Flickr_8k.trainImages.txt").write_text("".join(f"{i}.jpg\n" for i in range(7)))
    (root / "Flickr_8k.devImages.txt").write_text("7.jpg\n8.jpg\n")
    assert sizes(data.Flickr8k(root=str(root), **SEEDED)) == ("val", 7, 2)
    with pytest.raises(SettingError, match="eval_split=test: is no part of this data set"):
        data.Flickr8k(root=str(root), eval_split="test", **SEEDED).datasets()
    (root / "Flickr_8k.testImages.txt").write_text("9.jpg\n")
    assert sizes(data.Flickr8k(root=str(root), eval_split="test", **SEEDED)) == ("test", 7, 1)


@pytest.mark.parametrize(("given", "parts"), [("train", ["train", "seeded val"]), ("test", None)])
def test_some_of_the_split_lists_alone(
    given: str, parts: list[str] | None, tmp_path: Path, picture_folder: Path
) -> None:
    flickr8k(tmp_path, picture_folder, lists=True)
    for part in {"train", "dev", "test"} - {given, "test"}:
        (tmp_path / f"Flickr8k_text/Flickr_8k.{part}Images.txt").unlink()
    source = Flickr8k(root=str(tmp_path), **MEASURED)
    if parts is None:
        with pytest.raises(SettingError, match=r"testImages\.txt without Flickr_8k\.trainImages\.txt"):
            part_ids(source)
        return
    found = part_ids(source)
    assert list(found) == [*parts, "test"]
    assert found["test"] == ["9.jpg"]  # neither trained on nor in the seeded part


def test_images_of_an_unknown_part_are_left_out_aloud(
    flickr_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = [
        {
            "filename": f"{i}.jpg",
            "split": "validation" if i < 2 else "train",
            "sentences": [{"raw": f"raw {i}"}],
        }
        for i in range(12)
    ]
    (flickr_root / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    found = part_ids(Flickr30k(root=str(flickr_root), **MEASURED))
    assert sum(map(len, found.values())) == 10
    assert "Left out 2 images of the part 'validation'" in caplog.text


def flickr8k(root: Path, pictures: Path, *, lists: bool) -> None:
    copy_images(pictures, root / "Flicker8k_Dataset", range(10))
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
    found = part_ids(Flickr8k(root=str(tmp_path), **MEASURED))
    assert {name: len(ids) for name, ids in found.items()} == {"train": 7, "val": 2, "test": 1}


def test_the_name_without_a_file_in_flickr8k_is_left_out_aloud(
    tmp_path: Path, picture_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flickr8k(tmp_path, picture_folder, lists=False)
    found = part_ids(Flickr8k(root=str(tmp_path), **MEASURED))
    assert {name: len(ids) for name, ids in found.items()} == {"train": 8, "seeded val": 2}
    assert "Left out 1 of 11 images that captions name" in caplog.text
    (tmp_path / "Flicker8k_Dataset" / "3.jpg").unlink()  # a lost image is another matter
    with pytest.raises(UserError, match=r"3\.jpg"):
        part_ids(Flickr8k(root=str(tmp_path), **MEASURED))
