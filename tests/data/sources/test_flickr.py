"""Flickr8k and Flickr30k: layouts written in their exact format, and real files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from miniclip.data import Flickr8k, Flickr30k
from miniclip.data.sources.caption_files import (
    read_coco,
    read_hugging_face,
    read_karpathy,
    read_results,
    read_token_file,
)
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


READERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "results.csv": (lambda path: list(read_results(path)), "0.jpg| 0| a café\n"),
    "results.token": (lambda path: list(read_token_file(path)), "0.jpg#0\ta café\n"),
    "annotations.csv": (read_hugging_face, 'raw,split,filename\n"[""a café""]",train,0.jpg\n'),
    "karpathy.json": (
        read_karpathy,
        '{"images": [{"split": "train", "filename": "0.jpg", "sentences": [{"raw": "a café"}]}]}',
    ),
    "coco.json": (
        read_coco,
        '{"images": [{"id": 1, "file_name": "0.jpg"}],'
        ' "annotations": [{"image_id": 1, "caption": "a café"}]}',
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_the_encoding_of_every_captions_file(tmp_path: Path, name: str) -> None:
    read, content = READERS[name]
    path = tmp_path / name
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes(content.encode(encoding))
        assert "a café" in str(read(path)) and "\ufeff" not in str(read(path))
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=rf"{name}, line \d: byte \d+ \(0xe9\) is no UTF-8.*iconv"):
        read(path)


@pytest.mark.parametrize("name", ["annotations.csv", "karpathy.json", "coco.json"])
def test_captions_that_are_no_text_are_named(tmp_path: Path, name: str) -> None:
    read, content = READERS[name]
    path = tmp_path / name
    quote = '""' if name.endswith("csv") else '"'
    path.write_text(content.replace(f"{quote}a café{quote}", "7"))
    assert "'7'" in str(read(path))
    path.write_text(content.replace(f"{quote}a café{quote}", "0.5"))
    with pytest.raises(UserError, match=rf"{name}, image 0.jpg: a caption is a float"):
        read(path)


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
