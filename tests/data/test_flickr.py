"""Flickr8k and Flickr30k: layouts written in their exact format, and real files."""

import json
from pathlib import Path
from typing import Any

import pytest

from miniclip.data import Flickr8k, Flickr30k
from miniclip.errors import SettingError, UserError

SETTINGS: dict[str, Any] = {
    "val_fraction": 0.25,
    "split_seed": 0,
    "image_size": 32,
    "crop_scale": [0.5, 1.0],
    "flip": True,
    "limit": None,
    "seed": 0,
}


@pytest.fixture
def root(tmp_path: Path, picture_folder: Path) -> Path:
    picture_folder.rename(tmp_path / "flickr30k-images")
    return tmp_path


def token_file(root: Path) -> None:
    lines = [f"{i}.jpg#{n}\tPicture {i} , caption {n} ." for i in range(12) for n in range(5)]
    (root / "results_20130124.token").write_text("\n".join(lines) + "\n")


def test_the_original_token_file(root: Path) -> None:
    token_file(root)
    train, val = Flickr30k(root=str(root), **SETTINGS).splits()
    assert (len(train), len(val)) == (9, 3)
    assert val.name == "seeded val"
    assert set(train.ids).isdisjoint(val.ids)
    for split in (train, val):
        assert all(len(own) == 5 for own in split.captions)
        number = split.ids[0].removesuffix(".jpg")
        assert split.captions[0][2] == f"Picture {number} , caption 2 ."


def test_karpathys_split_is_used_when_present(root: Path) -> None:
    token_file(root)
    parts = ["train"] * 6 + ["restval"] * 2 + ["val"] * 2 + ["test"] * 2
    images = [
        {"filename": f"{i}.jpg", "split": part, "sentences": [{"raw": f"raw {i}"}] * 5}
        for i, part in enumerate(parts)
    ]
    (root / "dataset_flickr30k.json").write_text(json.dumps({"images": images}))
    train, val, test = Flickr30k(root=str(root), **SETTINGS).splits()
    assert (len(train), list(val.ids), val.name) == (8, ["8.jpg", "9.jpg"], "val")
    assert (list(test.ids), test.name) == (["10.jpg", "11.jpg"], "test")
    assert list(val.captions[0]) == ["raw 8"] * 5


def test_a_damaged_split_file_is_named(root: Path) -> None:
    (root / "dataset_flickr30k.json").write_text('{"pictures": []}')
    with pytest.raises(UserError, match=r"dataset_flickr30k\.json"):
        Flickr30k(root=str(root), **SETTINGS).splits()


def test_a_damaged_token_file_names_the_line(root: Path) -> None:
    token_file(root)
    with open(root / "results_20130124.token", "a") as file:
        file.write("no tab here\n")
    with pytest.raises(UserError, match="line 61"):
        Flickr30k(root=str(root), **SETTINGS).splits()


def test_a_folder_without_captions_or_images_says_what_it_wants(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(SettingError, match=r"results_20130124\.token"):
        Flickr30k(root=str(root), **SETTINGS).splits()
    with pytest.raises(SettingError, match="flickr30k-images"):
        Flickr30k(root=str(tmp_path_factory.mktemp("empty")), **SETTINGS).splits()


def test_real_photographs(real_data: Path) -> None:
    train, val = Flickr8k(root=str(real_data / "flickr8k_1k"), **SETTINGS).datasets()
    assert len(train) + len(val) == 1000
    assert sum(len(own) for own in train.split.captions) == 5 * len(train)
    image, caption = train[0]
    assert image.shape == (3, 32, 32) and caption in train.split.captions[0]
