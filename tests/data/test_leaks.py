"""Images on two sides of a split are found before training, at little cost."""

import logging
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from miniclip.data import Folder, Split, leaks
from miniclip.data.cache import cache_in_memory
from miniclip.data.images import ImageArray, ImageBytes, ImageFiles
from miniclip.data.leaks import check_leaks
from miniclip.errors import UserError

SETTINGS: dict[str, Any] = {
    "val_fraction": 0.25,
    "split_seed": 0,
    "image_size": 16,
    "crop_scale": [0.5, 1.0],
    "flip": True,
    "limit": None,
    "seed": 0,
    "eval_split": "val",
}


def of_files(name: str, root: Path, files: list[str]) -> Split:
    return Split(name, files, ImageFiles(root, files, decode_size=16), [["a caption"]] * len(files))


def test_the_same_file_and_a_copy_of_another_name_are_told(
    picture_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (picture_folder / "copy.jpg").write_bytes((picture_folder / "3.jpg").read_bytes())
    train = of_files("train", picture_folder, ["0.jpg", "1.jpg", "3.jpg"])
    val = of_files("val", picture_folder, ["1.jpg", "copy.jpg", "5.jpg", "missing.jpg"])
    with caplog.at_level(logging.WARNING):
        check_leaks([train, val])
    assert "The train part holds 2 of 4 images of the val part as well" in caplog.text
    assert "3.jpg = copy.jpg" in caplog.text and len(caplog.records) == 1


def test_a_part_that_lies_whole_in_another_stops(picture_folder: Path) -> None:
    train = of_files("train", picture_folder, ["0.jpg", "1.jpg", "2.jpg"])
    test = of_files("test", picture_folder, ["2.jpg", "1.jpg"])
    with pytest.raises(UserError, match="The train part holds all of the test part as well, 2 images"):
        check_leaks([train, of_files("val", picture_folder, ["4.jpg"]), test])


def test_images_in_bytes_and_decoded_ones_are_compared(
    picture_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoded = [(picture_folder / f"{i}.jpg").read_bytes() for i in (0, 1, 2, 1)] + [None]
    rows = ImageBytes(encoded, [str(i) for i in range(5)], decode_size=16)
    whole = Split("train", [str(i) for i in range(5)], rows, [["a"]] * 5)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 20, 20, 3), dtype=np.uint8)
    pixels[3] = pixels[0]
    drawn = Split("train", ["a", "b", "c", "d"], ImageArray(pixels), [["a"]] * 4)
    with caplog.at_level(logging.WARNING):
        check_leaks([whole.select("train", [0, 1]), whole.select("val", [2, 3, 4])])
        check_leaks([drawn.select("train", [0, 1]), drawn.select("val", [2, 3])])
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "The train part holds 1 of 3 images of the val part as well (1 = 3)",
        "The train part holds 1 of 2 images of the val part as well (a = d)",
    ]


def test_only_files_with_an_equal_end_are_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0)
    for name in ("a.bmp", "b.bmp", "c.bmp"):  # of one size
        Image.fromarray(noise.integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "d.bmp").write_bytes((tmp_path / "a.bmp").read_bytes())
    samples, wholes = counted_calls(monkeypatch, "sample"), counted_calls(monkeypatch, "content")
    found = leaks.find_leaks(
        [of_files("train", tmp_path, ["a.bmp", "b.bmp"]), of_files("val", tmp_path, ["c.bmp", "d.bmp"])]
    )
    assert [[place.id for place in group] for group in found] == [["a.bmp", "d.bmp"]]
    assert len(samples) == 4 and len(wholes) == 2


def counted_calls(monkeypatch: pytest.MonkeyPatch, method: str) -> list[int]:
    """The rows for which a method of image files is called from now on."""
    rows: list[int] = []
    original = getattr(ImageFiles, method)

    def counted(images: ImageFiles, row: int) -> Any:
        rows.append(row)
        return original(images, row)

    monkeypatch.setattr(ImageFiles, method, counted)
    return rows


def test_files_are_looked_at_once_where_no_cache_decodes_them(
    picture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for row in range(12):
        (picture_folder / f"{row}.txt").write_text("a caption")
    sizes = counted_calls(monkeypatch, "num_bytes")
    Folder(root=str(picture_folder), **SETTINGS).training_sets()
    assert len(sizes) == 12


def test_training_is_warned_and_a_cache_finds_equal_pixels(
    tmp_path: Path, picture_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for part, names in (("train", range(6)), ("val", range(6, 9)), ("test", range(9, 12))):
        (tmp_path / part).mkdir()
        for i in names:
            (picture_folder / f"{i}.jpg").rename(tmp_path / part / f"{i}.jpg")
            (tmp_path / part / f"{i}.txt").write_text(f"number {i}")
    same_pixels = Image.open(tmp_path / "train" / "0.jpg")
    same_pixels.save(tmp_path / "val" / "again.png")
    (tmp_path / "val" / "again.txt").write_text("number 0")
    with caplog.at_level(logging.WARNING):
        train, val, test = Folder(root=str(tmp_path), **SETTINGS).training_sets()
        assert not caplog.records and test is not None
        assert (len(train), len(val), len(test)) == (6, 4, 3)
        Folder(root=str(tmp_path), **SETTINGS, cache="memory").training_sets()
    assert "The train part holds 1 of 4 images of the val part as well (0.jpg = again.png)" in caplog.text


def test_cached_images_of_an_equal_crc_are_not_equal() -> None:
    pixels = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    pixels[1] = of_equal_crc(pixels[0])
    assert zlib.crc32(pixels[0]) == zlib.crc32(pixels[1]) and not np.array_equal(*pixels)

    images = cache_in_memory(ImageArray(pixels), size=8, skips_broken=False)
    whole = Split("train", ["a", "b"], images, [["a"], ["b"]])
    parts = [whole.select("train", [0]), whole.select("val", [1])]
    assert leaks.find_leaks(parts) == []
    assert len(leaks.find_leaks([parts[0], whole.select("val", [0])])) == 1


def of_equal_crc(pixels: np.ndarray) -> np.ndarray:
    """Other pixels (H, W, 3) of the same crc32, which is linear in the bits of what it is made of."""
    rest = {}  # a crc32 by the bits that it comes of, each crc with another leading bit
    nothing = zlib.crc32(bytes(pixels.nbytes))
    for bit in range(33):
        chosen = 1 << bit
        change = zlib.crc32(chosen.to_bytes(pixels.nbytes, "little")) ^ nothing
        while change and change.bit_length() in rest:
            own_change, own_chosen = rest[change.bit_length()]
            change, chosen = change ^ own_change, chosen ^ own_chosen
        if change == 0:
            changed = np.frombuffer(chosen.to_bytes(pixels.nbytes, "little"), np.uint8)
            return pixels ^ changed.reshape(pixels.shape)
        rest[change.bit_length()] = change, chosen
    raise AssertionError("33 bits change 32 in two ways at least")
