"""A zoo of bad files: each ends in one line that names it; odd but good ones are read."""

import io
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from miniclip.data import CSVTable
from miniclip.data.image_content import decode
from miniclip.data.images import ImageFiles
from miniclip.errors import BrokenImage, UserError

RED = Image.new("RGB", (40, 30), (255, 0, 0))


def encoded(image: Image.Image = RED, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png_bomb() -> bytes:
    """A few bytes that claim 50,000 x 50,000 pixels."""
    small = bytearray(encoded(kind="PNG"))
    small[16:24] = struct.pack(">II", 50_000, 50_000)
    return bytes(small)


BAD_IMAGES: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "one byte": lambda: b"\xff",
    "a page": lambda: b"<!DOCTYPE html><html>404 not found</html>",
    "text": lambda: b"a dog runs over the grass",
    "zeros": lambda: bytes(1000),
    "jpeg, 3 bytes": lambda: encoded(noise())[:3],
    "jpeg, header only": lambda: encoded(noise())[:200],
    "jpeg, a quarter": lambda: encoded(noise())[: len(encoded(noise())) // 4],
    "jpeg, half": lambda: encoded(noise())[: len(encoded(noise())) // 2],
    "jpeg, without its last tenth": lambda: encoded(noise())[: len(encoded(noise())) * 9 // 10],
    "png, half": lambda: encoded(noise(), "PNG")[: len(encoded(noise(), "PNG")) // 2],
    "png, wrong checksum": lambda: encoded(kind="PNG")[:45] + b"\0\0\0\0" + encoded(kind="PNG")[49:],
    "webp, half": lambda: encoded(noise(), "WEBP")[:300],
    "gif, half": lambda: encoded(noise(), "GIF")[:400],
    "tiff, half": lambda: encoded(noise(), "TIFF")[:500],
    "bmp, half": lambda: encoded(noise(), "BMP")[:500],
    "a bomb": png_bomb,
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "zip": lambda: b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "bad.jpg").write_bytes(BAD_IMAGES[name]())
    with pytest.raises(UserError, match=r"bad\.jpg") as caught:
        ImageFiles(tmp_path, ["bad.jpg"], decode_size=32)[0]
    assert "\n" not in str(caught.value)


def animated() -> bytes:
    frames = [RED, Image.new("RGB", (40, 30), (0, 0, 255))]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def rotated() -> bytes:
    """Taken with the camera on its side: upright it is red above blue."""
    image = Image.new("RGB", (30, 40), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 30, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image.rotate(90, expand=True), exif=exif, quality=100, subsampling=0)


def transparent(mode: str) -> bytes:
    image = Image.new("RGBA", (40, 30), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (20, 0, 40, 30))
    return encoded(image.convert(mode) if mode != "P" else image.quantize(4), "PNG")


def sixteen_bits() -> bytes:
    ramp = np.linspace(0, 65535, 40).astype(np.uint16)
    return encoded(Image.fromarray(np.tile(ramp, (30, 1))), "PNG")


def first_pixel(pixels: torch.Tensor) -> list[int]:
    return pixels[:, 2, 2].tolist()


def test_animations_give_their_first_frame(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(animated())
    assert first_pixel(ImageFiles(tmp_path, ["a.gif"], decode_size=16)[0]) == [255, 0, 0]


def test_a_rotated_photograph_stands_upright(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(rotated())
    pixels = ImageFiles(tmp_path, ["a.jpg"], decode_size=64)[0]
    assert pixels.shape == (3, 40, 30)
    assert pixels[0, 3, 3] > 200 and pixels[2, 36, 3] > 200


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_become_white(tmp_path: Path, mode: str) -> None:
    (tmp_path / "a.png").write_bytes(transparent(mode))
    pixels = ImageFiles(tmp_path, ["a.png"], decode_size=16)[0]
    assert pixels[:, 5, 35].tolist() == [255, 255, 255]
    assert first_pixel(pixels) == ([255, 0, 0] if mode != "LA" else [76, 76, 76])


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(sixteen_bits())
    row = ImageFiles(tmp_path, ["a.png"], decode_size=16)[0][0, 0].tolist()
    assert row[0] == 0 and row[-1] == 255 and 100 < row[20] < 150


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr", "HSV", "LAB"])
def test_other_colours_become_rgb(tmp_path: Path, mode: str) -> None:
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG", "HSV": "TIFF", "LAB": "TIFF"}.get(mode, "PNG")
    if mode == "HSV":
        pytest.skip("no file format of Pillow holds HSV")
    image = Image.new("LAB", (40, 30), (128, 128, 128)) if mode == "LAB" else RED.convert(mode)
    (tmp_path / "a").write_bytes(encoded(image, kind))
    pixels = ImageFiles(tmp_path, ["a"], decode_size=16)[0]
    assert pixels.shape == (3, 30, 40) and pixels.dtype is torch.uint8
    if mode in ("CMYK", "YCbCr"):
        red, green, blue = first_pixel(pixels)
        assert red > 220 and green < 40 and blue < 40


def table(folder: Path, content: bytes | str) -> CSVTable:
    path = folder / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return CSVTable(
        train_csv=str(path),
        train_root=str(folder / "images"),
        val_csv=str(path),
        val_root=str(folder / "images"),
        image_column=None,
        caption_column=None,
        separator=None,
        image_size=32,
        crop_scale=[0.5, 1.0],
        flip=True,
        limit=None,
        seed=0,
    )


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """A folder `images` with a.jpg and links, and secret.jpg outside it."""
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.jpg").write_bytes(encoded())
    (images / "b.jpg").write_bytes(encoded())
    (tmp_path / "secret.jpg").write_bytes(encoded())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.jpg").write_bytes(encoded())
    (images / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (images / "inner.jpg").symlink_to(images / "a.jpg")
    (images / "folder").symlink_to(tmp_path / "elsewhere")
    return tmp_path


BAD_TABLES: dict[str, tuple[bytes | str, str]] = {
    "empty": ("", "table.csv is empty"),
    "header only": ("image,caption\n", "holds no captions"),
    "spaces": ("  \n \n", "is empty"),
    "no image column": ("name_of,caption\na.jpg,a\n", "it has: name_of, caption"),
    "no caption column": ("image,words\na.jpg,a\n", "it has: image, words"),
    "wrong separator": ("image caption\na.jpg a\n", "it has: image caption"),
    "a short row": ("image,caption\na.jpg\n", "line 2: 1 columns"),
    "latin 1": ("image,caption\na.jpg,café\n".encode("latin-1"), "UTF-8"),
    "utf 16 without a mark": ("image,caption\na.jpg,a\n".encode("utf-16-le"), "UTF-8"),
    "binary": (bytes(range(256)), "table.csv"),
    "NUL in a row": (b"image,caption\na.jpg,a\0b\n", "line 2: holds a NUL byte"),
    "missing image": ("image,caption\nnone.jpg,a\n", "none.jpg"),
    "missing folder": ("image,caption\nnowhere/none.jpg,a\n", "none.jpg"),
    "a folder for an image": ("image,caption\nfolder,a\n", "folder"),
    "the folder itself": ("image,caption\n.,a\n", "missing"),
    "parent": ("image,caption\n../secret.jpg,a\n", "lies outside"),
    "parent within": ("image,caption\nfolder/../../secret.jpg,a\n", "lies outside"),
    "absolute": ("image,caption\n/etc/passwd,a\n", "lies outside"),
    "a link outside": ("image,caption\nlink.jpg,a\n", "lies outside"),
    "a linked folder": ("image,caption\nfolder/c.jpg,a\n", "lies outside"),
    "home": ("image,caption\n~/secret.jpg,a\n", "missing"),
    "all captions empty": ('image,caption\na.jpg,""\nb.jpg,"  "\n', "holds no captions"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_table_is_named(zoo: Path, name: str) -> None:
    content, reason = BAD_TABLES[name]
    with pytest.raises(UserError) as caught:
        table(zoo, content).datasets()
    assert reason in str(caught.value), caught.value


@pytest.mark.parametrize("text", ["None", "NA", "nan", "null", "NULL", "n/a", "0", "-", "true", "1e5"])
def test_words_that_look_like_missing_values_are_captions(zoo: Path, text: str) -> None:
    train, _ = table(zoo, f"image,caption\na.jpg,{text}\nb.jpg,a dog\n").datasets()
    assert list(train.split.captions[0]) == [text]


def test_odd_but_good_tables(zoo: Path) -> None:
    long = "word " * 250_000
    for content, expected in (
        ("\ufeffimage,caption\na.jpg,a dog\n", ["a dog"]),
        ("image,caption\r\na.jpg,a dog\r\n", ["a dog"]),
        ("image,caption\na.jpg,ein Hündchen\n".encode("utf-16"), ["ein Hündchen"]),
        ("image,caption\na.jpg,a dog\n\n\n", ["a dog"]),
        ("image,caption\na.jpg,a dog", ["a dog"]),
        ('image,caption\na.jpg,"a dog\nin two lines"\n', ["a dog\nin two lines"]),
        ('image,caption\na.jpg,"a ""dog"""\n', ['a "dog"']),
        ("IMAGE,Caption\na.jpg,a dog\n", ["a dog"]),
        ("id,caption,image,more\n7,a dog,a.jpg,x\n", ["a dog"]),
        ("image,caption\na.jpg,a dog\na.jpg,a dog\n", ["a dog", "a dog"]),
        ("image,caption\ninner.jpg,a dog\n", ["a dog"]),
        ("image,caption\na.jpg,🐕 犬\n", ["🐕 犬"]),
        (f"image,caption\na.jpg,{long}\n", [long.strip()]),
    ):
        train, _ = table(zoo, content).datasets()
        assert list(train.split.captions[0]) == expected, content[:60]
        assert train[0][0].isfinite().all()


def test_an_unreadable_file_is_named(zoo: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (zoo / "images" / "a.jpg").chmod(0)
    train, _ = table(zoo, "image,caption\na.jpg,a\n").datasets()
    with pytest.raises(UserError, match=r"a\.jpg"):
        _ = train[0]


def test_a_pipe_named_like_an_image_is_not_waited_for(zoo: Path) -> None:
    os.mkfifo(zoo / "images" / "pipe.jpg")
    with pytest.raises(BrokenImage, match=r"pipe\.jpg is no regular file"):
        ImageFiles(zoo / "images", ["pipe.jpg"], decode_size=16)[0]


def test_the_zoo_is_large_enough() -> None:
    assert len(BAD_IMAGES) + len(BAD_TABLES) >= 40


def test_a_jpeg_is_what_pillow_makes_of_it_whole_or_damaged() -> None:
    """The fast decoder takes and refuses the same files, and gives the same pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    photograph = Image.fromarray(noise).resize((120, 90), Image.Resampling.BICUBIC)
    outcomes = {True: 0, False: 0}
    draw = random.Random(0)
    for settings in ({}, {"subsampling": 0}, {"progressive": True}, {"quality": 20}):
        file = io.BytesIO()
        photograph.save(file, "JPEG", **settings)
        whole = file.getvalue()
        for number in range(60):
            content = bytearray(whole if number % 2 else whole[: draw.randrange(1, len(whole))])
            for _ in range(number % 4):
                content[draw.randrange(len(content))] = draw.randrange(256)
            try:
                with Image.open(io.BytesIO(content)) as image:
                    expected = np.array(image.convert("RGB"))
            except (OSError, SyntaxError, ValueError):
                outcomes[False] += 1
                with pytest.raises(BrokenImage):
                    decode(bytes(content), "it", decode_size=1000)
                continue
            outcomes[True] += 1
            actual = decode(bytes(content), "it", decode_size=1000)
            assert np.array_equal(actual.permute(1, 2, 0).numpy(), expected), number
    assert min(outcomes.values()) > 50
