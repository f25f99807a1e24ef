"""A zoo of bad images, each of which is named; odd but good ones are decoded."""

import io
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps, PngImagePlugin, TiffImagePlugin, TiffTags

from miniclip.data.image_content import LOADING, decode, decode_without_torch, upright_rgb
from miniclip.data.images import ImageFiles
from miniclip.errors import BrokenImage, UserError
from tests.data.conftest import LYING, RED, encoded, lying


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_brought_upright_as_pillow_does(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = encoded(noise().resize((40, 30)), kind, exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(decode(content, "it", decode_size=64).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", LYING)
def test_an_upright_image_is_not_turned_again(kind: str, orientation: int) -> None:
    content = lying(noise(), kind, orientation=orientation)
    once = decode_without_torch(content, "it", decode_size=90)
    assert once.size == noise().size
    assert np.array_equal(upright_rgb(once), once)


def test_an_image_that_xmp_turns_is_not_turned_again() -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    content = encoded(noise().transpose(LYING[6]), "PNG", pnginfo=texts)
    once = decode_without_torch(content, "it", decode_size=90)
    assert np.array_equal(once, noise())
    assert np.array_equal(upright_rgb(once), once)


def test_bringing_an_image_upright_leaves_it_as_it_is() -> None:
    with Image.open(io.BytesIO(lying(noise()))) as image:
        before = dict(image.info)
        upright_rgb(image)
        assert image.info == before and image.size == (90, 120)


@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [
        (ExifTags.Base.ResolutionUnit, TiffTags.RATIONAL, TiffImagePlugin.IFDRational(1, 3)),
        (ExifTags.Base.Make, TiffTags.RATIONAL, TiffImagePlugin.IFDRational(1, 3)),
        (ExifTags.Base.XResolution, TiffTags.ASCII, "much"),
    ],
)
def test_odd_entries_of_exif_do_no_harm(tag: int, kind: int, value: object) -> None:
    entries = TiffImagePlugin.ImageFileDirectory_v2()
    for key, its_kind, its_value in ((ExifTags.Base.Orientation, TiffTags.SHORT, 6), (tag, kind, value)):
        entries.tagtype[key] = its_kind
        entries[key] = its_value
    exif = b"Exif\0\0II*\0\x08\0\0\0" + entries.tobytes(8)
    pixels = decode(encoded(noise().resize((40, 30)), exif=exif), "it", decode_size=64)
    assert pixels.shape == (3, 40, 30)


def test_a_jpeg_of_very_many_scans_is_not_decoded() -> None:
    whole = encoded(noise(), progressive=True)
    last_scan = whole[whole.rindex(b"\xff\xda") : whole.rindex(b"\xff\xd9")]
    assert decode(whole + last_scan * 200, "it", decode_size=64).shape == (3, 90, 120)  # behind its end
    for scans in (last_scan * 200, (b"\xff\x01" + last_scan) * 200):  # also with a marker of no length
        with pytest.raises(BrokenImage, match="has more than 100 scans"):
            decode(whole[:-2] + scans + whole[-2:], "it", decode_size=64)


def test_what_readers_raise_at_a_broken_image_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Pillow's reader of AVIF does."""

    def load(self: Image.Image) -> None:
        raise RuntimeError("conversion from YUV failed")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(BrokenImage, match=r"The image it cannot be read \(conversion from YUV failed\)"):
        decode(encoded(noise(), "PNG"), "it", decode_size=64)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 254]], dtype=np.int32), [0, 254]),
        (np.array([[0, 65535]], dtype=np.int32), [0, 255]),
        (np.array([[0.0, 254.0]], dtype=np.float32), [0, 254]),
        (np.array([[0.0, 0.0]], dtype=np.float32), [0, 0]),
        (np.array([[0.0, 1.0]], dtype=np.float32), None),
        (np.array([[0, 1]], dtype=np.int32), None),
        (np.array([[0, 70_000]], dtype=np.int32), None),
        (np.array([[-1.0, 254.0]], dtype=np.float32), None),
        (np.array([[np.nan, 254.0]], dtype=np.float32), None),
    ],
)
def test_grey_numbers_are_pixels_where_they_say_what_is_white(
    values: np.ndarray, expected: list[int] | None
) -> None:
    content = encoded(Image.fromarray(values), "TIFF")
    if expected is None:
        with pytest.raises(BrokenImage, match=r"its pixels are between .*; save it with 8 or 16 bits"):
            decode(content, "it", decode_size=64)
    else:
        assert decode(content, "it", decode_size=64)[:, 0].tolist() == [expected] * 3


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


ODD_IMAGES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(noise()),
    "jpeg, small": lambda: encoded(noise().resize((400, 300))),
    "animation": animated,
    "rotated": rotated,
    "transparent": lambda: transparent("RGBA"),
    "16 bits": sixteen_bits,
}


@pytest.mark.parametrize("name", ODD_IMAGES)
def test_without_torch_an_image_has_the_same_pixels(name: str) -> None:
    content = ODD_IMAGES[name]()
    image = decode_without_torch(content, "it", decode_size=64)
    pixels = decode(content, "it", decode_size=64)
    assert np.array_equal(np.array(image), pixels.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_without_torch_a_bad_image_is_named(name: str) -> None:
    with pytest.raises(BrokenImage, match=r"bad\.jpg"):
        decode_without_torch(BAD_IMAGES[name](), "bad.jpg", decode_size=32)


def test_a_pipe_named_like_an_image_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(BrokenImage, match=r"pipe\.jpg is no regular file"):
        ImageFiles(tmp_path, ["pipe.jpg"], decode_size=16)[0]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_waits_for_no_thread_of_its_parent() -> None:
    for lock in LOADING:
        lock.acquire()
    try:
        child = os.fork()
        if child == 0:
            os._exit(any(lock.locked() for lock in LOADING))
        _, status = os.waitpid(child, 0)
    finally:
        for lock in LOADING:
            lock.release()
    assert status == 0


def test_the_zoo_is_large_enough() -> None:
    assert len(BAD_IMAGES) >= 19
