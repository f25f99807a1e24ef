"""The doctor finds what was planted."""

from pathlib import Path

import pytest
from PIL import Image

from tests.folder_set import examined, photograph, save_set


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return save_set(tmp_path / "set")


def test_duplicates_within_a_split_are_told_and_no_leak(root: Path) -> None:
    (root / "train" / "0.jpg").replace(root / "train" / "1.jpg")
    photograph(1).save(root / "train" / "0.jpg", quality=95)
    (root / "train" / "2.jpg").write_bytes((root / "train" / "3.jpg").read_bytes())
    code, found, _ = examined(root)
    assert code == 0
    assert found["exact_duplicates"] == [["train: 2.jpg", "train: 3.jpg"]]


def test_a_planted_leak_is_found(root: Path) -> None:
    (root / "val" / "14.jpg").write_bytes((root / "train" / "5.jpg").read_bytes())
    code, found, text = examined(root)
    assert code == 1 and "NOT healthy" in text
    assert found["leaks"] == [["train: 5.jpg", "val: 14.jpg"]]


def test_broken_files_leak_as_well(root: Path) -> None:
    for name in ("train/0.jpg", "val/14.jpg"):
        (root / name).write_bytes(b"the same, and no image")
    (root / "val" / "15.jpg").write_bytes(b"not the same, no image")
    _, found, _ = examined(root)
    assert found["leaks"] == [["train: 0.jpg", "val: 14.jpg"]] and len(found["broken"]) == 3


def test_a_leak_in_another_size_and_compression_is_found(root: Path) -> None:
    photograph(5).resize((120, 90)).save(root / "val" / "14.jpg", quality=60)
    code, found, _ = examined(root)
    assert code == 1
    assert found["near_duplicates"] == found["leaks"] == [["train: 5.jpg", "val: 14.jpg"]]


def test_another_colour_is_another_picture(root: Path) -> None:
    red, green, blue = photograph(5).split()
    Image.merge("RGB", (blue, green, red)).save(root / "val" / "14.jpg", quality=95)
    assert examined(root)[0] == 0


def test_broken_images_and_long_captions(root: Path) -> None:
    (root / "train" / "7.jpg").write_bytes(b"<html>")
    (root / "train" / "8.txt").write_text("word " * 50)
    code, found, text = examined(root)
    assert code == 1 and list(found["broken"]) == ["train: 7.jpg"]
    assert found["num_truncated"] == 1 and "1 of 35" in text
