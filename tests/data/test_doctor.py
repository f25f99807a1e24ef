"""The doctor finds what was planted."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miniclip.data import doctor
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


def test_pairs_that_look_the_same_are_found_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """In little memory, however many of the hashes are near each other."""
    monkeypatch.setattr(doctor, "CHUNK", 4)
    draw = np.random.default_rng(0)
    looks = draw.choice(np.array([0, 1, 2**40 - 1], dtype=np.uint64), 30)
    thumbnails = draw.choice([0, 8, 17], (30, 1)).astype(np.int16).repeat(768, axis=1)

    expected = [
        (a, b)
        for a, b in combinations(range(30), 2)
        if int(looks[a] ^ looks[b]).bit_count() <= 4 and abs(thumbnails[a, 0] - thumbnails[b, 0]) <= 8
    ]
    arrays: list[int] = []

    def counted(array: np.ndarray) -> np.ndarray:
        arrays.append(array.size)
        return bits_of(array)

    bits_of = np.bitwise_count
    monkeypatch.setattr(doctor.np, "bitwise_count", counted)
    assert doctor._near_pairs(looks, thumbnails) == expected
    assert max(arrays) == 16
