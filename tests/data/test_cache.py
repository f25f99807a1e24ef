"""Decoded pixels: the same pictures, whole or not there, made anew when they do not fit."""

import errno
import json
import logging
import multiprocessing
import os
import pickle
import weakref
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from miniclip.data import CSVTable, Split, cache
from miniclip.data.cache import CachedImages, PixelCache, cache_in_memory, cache_on_disk
from miniclip.data.decoding import DecodedImage, decode_all
from miniclip.data.images import ImageArray, ImageFiles, ImageSubset
from miniclip.data.transforms import crop_and_resize
from miniclip.disk_errors import DiskError, disk_errors_told
from miniclip.errors import BrokenImage, UserError
from tests.reliability.limits import largest_file


@pytest.fixture
def photographs(tmp_path: Path) -> ImageFiles:
    """Smooth pictures of several shapes, the last one smaller than the cache's size."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    names = []
    for number, (width, height) in enumerate([(200, 133), (133, 200), (300, 300), (150, 90), (40, 30)]):
        y, x = np.mgrid[0:height, 0:width]
        pixels = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 40 * number)], axis=-1)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.jpg", quality=95)
        names.append(f"{number}.jpg")
    return ImageFiles(folder, names, decode_size=64)


def cached(images: ImageFiles, tmp_path: Path, kind: str, **changes: Any) -> CachedImages:
    settings = {"size": 64, "skips_broken": False} | changes
    if kind == "memory":
        return cache_in_memory(images, **settings)
    return cache_on_disk(images, tmp_path / "cache" / "pixels", **settings)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_pictures_are_shrunk_and_otherwise_the_same(
    photographs: ImageFiles, tmp_path: Path, kind: str
) -> None:
    images = cached(photographs, tmp_path, kind)
    assert len(images) == 5
    for index in range(5):
        whole, small = photographs[index], images[index]
        assert min(small.shape[1:]) == min(64, min(whole.shape[1:]))
        resized = torch.nn.functional.interpolate(
            whole[None].float(), size=small.shape[1:], mode="bicubic", antialias=True
        )[0]
        assert (resized - small.float()).abs().max() <= 2  # levels of 255


def source(folder: Path, cache_dir: Path, **changes: Any) -> CSVTable:
    table = folder / "table.csv"
    if not table.exists():
        names = sorted(path.name for path in folder.glob("*.jpg"))
        table.write_text("image,caption\n" + "".join(f"{name},picture {name}\n" for name in names))
    settings: dict[str, Any] = {
        **{f"{side}_csv": str(table) for side in ("train", "val")},
        **{f"{side}_root": str(folder) for side in ("train", "val")},
        "image_column": None,
        "caption_column": None,
        "separator": None,
        "image_size": 48,
        "crop_scale": [0.5, 1.0],
        "flip": True,
        "limit": None,
        "seed": 0,
        "cache_dir": str(cache_dir),
    }
    return CSVTable(**settings | changes)


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("crop", ["resized", "shifted"])
def test_a_model_sees_the_same_with_and_without(
    photographs: ImageFiles, tmp_path: Path, kind: Any, crop: Any
) -> None:
    """Within 4 of 255 levels on smooth pictures: one resize more."""
    plain = source(photographs.root, tmp_path / "cache", crop=crop).datasets()
    fast = source(photographs.root, tmp_path / "cache", crop=crop, cache=kind).datasets()
    for uncached, with_cache in zip(plain, fast, strict=True):
        for index in range(len(uncached)):
            expected, actual = uncached.item((3, index)), with_cache.item((3, index))
            seen, cached_seen = (
                crop_and_resize(item.image, item.box, 48).float() for item in (expected, actual)
            )
            assert (seen - cached_seen).abs().mean() < 4
            assert expected.caption == actual.caption


def test_what_was_decoded_is_not_decoded_again(
    photographs: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cached(photographs, tmp_path, "disk")

    def fail(self: Any, index: int) -> torch.Tensor:
        raise AssertionError("decoded again")

    monkeypatch.setattr(ImageFiles, "__getitem__", fail)
    again = cached(photographs, tmp_path, "disk")
    assert torch.equal(first[2], again[2])


def test_another_picture_or_size_is_another_cache(photographs: ImageFiles, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    for changes in ({}, {}, {"image_size": 32}):
        source(photographs.root, folder, cache="disk", **changes).datasets()
    assert len(list(folder.glob("pixels-*"))) == 4  # two splits, two sizes
    Image.new("RGB", (70, 70), (1, 2, 3)).save(photographs.root / "2.jpg")
    train, _ = source(photographs.root, folder, cache="disk").datasets()
    assert train.images[2][:, 30, 30].tolist() == pytest.approx([1, 2, 3], abs=3)


def test_other_drawings_of_the_same_names_are_another_cache(tmp_path: Path) -> None:
    keeper = PixelCache("disk", tmp_path, skips_broken=False)
    pixels = np.full((2, 8, 8, 3), 50, dtype=np.uint8)
    for level in (50, 90):
        pixels[1] = level
        split = Split("train", ["a", "b"], ImageArray(pixels.copy()), [["a"], ["b"]])
        kept = keeper.keep(split.select("train", [0, 1]), size=8)
        assert int(kept[1].max()) == level
    assert len(list(tmp_path.glob("pixels-*"))) == 2


def test_a_cache_of_a_former_format_is_made_anew(
    photographs: ImageFiles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    keeper = PixelCache("disk", tmp_path / "cache", skips_broken=False)
    split = Split("train", photographs.names, photographs, [["a"]] * len(photographs))
    with monkeypatch.context() as former:
        former.setattr(cache, "FORMAT", cache.FORMAT - 1)
        keeper.keep(split, size=64)

    images = keeper.keep(split, size=64)
    assert isinstance(images, CachedImages) and len(images) == 5
    assert [len(digest) for digest in images.digests] == [32] * 5
    assert len(list((tmp_path / "cache").glob("pixels-*"))) == 2 and not caplog.records


@pytest.mark.parametrize("damage", ["a flipped bit", "cut off", "no index", "half an index", "others"])
def test_a_damaged_cache_is_made_anew(
    photographs: ImageFiles,
    tmp_path: Path,
    damage: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = [
        picture.clone() for picture in map(cached(photographs, tmp_path, "disk").__getitem__, range(5))
    ]
    folder = tmp_path / "cache" / "pixels"
    pixels, index = folder / "pixels.bin", folder / "index.json"
    content = bytearray(pixels.read_bytes())
    if damage == "a flipped bit":
        content[1000] ^= 1
        pixels.write_bytes(content)
    elif damage == "cut off":
        pixels.write_bytes(content[:-10])
    elif damage == "no index":
        index.unlink()
    elif damage == "half an index":
        index.write_text(index.read_text()[:40])
    else:
        index.write_text(index.read_text().replace("[[", "[[1, 1], [", 1))

    def remove(folder: Path) -> None:
        """As on Windows, which removes no file that is mapped."""
        maps = Path("/proc/self/maps")
        assert not maps.exists() or str(pixels) not in maps.read_text()
        rmtree(folder)

    monkeypatch.setattr("miniclip.data.cache.shutil.rmtree", remove)
    with caplog.at_level(logging.WARNING):
        anew = cached(photographs, tmp_path, "disk")
    assert "damaged and is made anew" in caplog.text
    assert all(torch.equal(anew[i], expected[i]) for i in range(5))


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_broken_image_stops_or_is_kept_in_mind(
    photographs: ImageFiles, tmp_path: Path, kind: str
) -> None:
    (photographs.root / "1.jpg").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"1\.jpg"):
        cached(photographs, tmp_path, kind)
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())
    for _ in range(2):
        images = cached(photographs, tmp_path, kind, skips_broken=True)
        assert images[2].shape == (3, 64, 64)
        with pytest.raises(UserError, match=r"1\.jpg"):
            _ = images[1]


def _sum(images: CachedImages) -> int:
    return int(images[3].sum())


def test_other_processes_map_the_file_for_themselves(photographs: ImageFiles, tmp_path: Path) -> None:
    images = cached(photographs, tmp_path, "disk")
    assert len(pickle.dumps(images)) < 5000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_sum, (images,)) == _sum(images)


@pytest.mark.parametrize(
    "settings",
    [
        {"cache": "memory"},
        {"cache": "disk"},
        {"crop": "shifted"},
        {"crop": "shifted", "cache": "memory"},
        {"crop_scale": [0.08, 1.0]},
        {"crop_scale": [0.9, 1.0], "cache": "memory"},
        {"cache": "memory", "on_broken_image": "skip"},
    ],
)
@pytest.mark.parametrize("eval_crop", ["squash", "center"])
def test_evaluation_sees_the_same_pixels_whatever_training_does(
    photographs: ImageFiles, tmp_path: Path, settings: dict[str, Any], eval_crop: str
) -> None:
    """One checkpoint's evaluation has one fingerprint, so it has to have one result."""
    _, plain = source(photographs.root, tmp_path / "cache", eval_crop=eval_crop).datasets()
    _, other = source(photographs.root, tmp_path / "cache", eval_crop=eval_crop, **settings).datasets()
    assert other.split.fingerprint() == plain.split.fingerprint()
    for index in range(len(plain)):
        assert torch.equal(other[index][0], plain[index][0])
    # what people are shown keeps its proportions
    assert other.split.images[0].shape == plain.split.images[0].shape


@pytest.mark.parametrize("change", ["swapped", "changed", "negative", "digests"])
def test_shapes_are_under_the_checksum_too(
    photographs: ImageFiles, tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = [image.clone() for image in map(cached(photographs, tmp_path, "disk").__getitem__, range(5))]
    path = tmp_path / "cache" / "pixels" / "index.json"
    index = json.loads(path.read_text())
    shapes = index["shapes"]
    if change == "swapped":  # of the same number of pixels
        shapes[0], shapes[1] = shapes[1], shapes[0]
    elif change == "changed":
        shapes[2] = [shapes[2][0] // 2, shapes[2][1] * 2]
    elif change == "negative":
        shapes[2] = [-shapes[2][0], -shapes[2][1]]
    else:
        index["digests"][0] = "0" * 32
    path.write_text(json.dumps(index))
    again = cached(photographs, tmp_path, "disk")
    assert "is damaged and is made anew" in caplog.text
    assert all(torch.equal(again[place], image) for place, image in enumerate(expected))


@pytest.mark.parametrize("kind", ["file", "link to a file", "link to a folder"])
def test_what_stands_in_the_way_of_a_cache_is_replaced(
    photographs: ImageFiles, tmp_path: Path, kind: str
) -> None:
    place, other = tmp_path / "cache" / "pixels", tmp_path / "other"
    place.parent.mkdir()
    if kind == "link to a folder":
        other.mkdir()
    else:
        other.write_text("mine")
    if kind == "file":
        place.write_text("x")
    else:
        place.symlink_to(other)
    assert len(cached(photographs, tmp_path, "disk")) == 5
    assert not place.is_symlink() and (other.is_dir() or other.read_text() == "mine")


def test_a_cache_that_cannot_be_written_is_one_line(photographs: ImageFiles, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    with pytest.raises(UserError, match=r"cannot be written.*data\.cache_dir=FOLDER"):
        cached(photographs, tmp_path, "disk")


def test_what_the_disk_does_not_take_is_kept_in_memory(
    photographs: ImageFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the same pixels, so that the same weights are trained."""
    expected, _ = source(photographs.root, tmp_path / "cache", cache="disk").datasets()
    (tmp_path / "file").write_text("a file where the folder would be")
    train, _ = source(photographs.root, tmp_path / "file", cache="disk").datasets()
    assert all(torch.equal(train.images[place], expected.images[place]) for place in range(5))
    assert caplog.text.count("kept in memory instead") == 2  # once for each part


def test_what_fits_neither_disk_nor_memory_is_decoded_each_time(
    photographs: ImageFiles,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache, "fits_into_memory", lambda num_bytes: num_bytes < 1000)
    with largest_file(5000):
        train, _ = source(photographs.root, tmp_path / "cache", cache="disk").datasets()
    assert not train.images.is_decoded and train.images[0].shape[0] == 3
    assert "(File too large)" in caplog.text and "decoded each time" in caplog.text
    assert not list((tmp_path / "cache").iterdir())


def test_a_cache_that_is_cut_while_it_is_read_is_an_error(photographs: ImageFiles, tmp_path: Path) -> None:
    """And not the end of the process, as reading a mapping behind the end of its file is."""
    images = cached(photographs, tmp_path, "disk")
    os.truncate(tmp_path / "cache" / "pixels" / "pixels.bin", 100)
    with pytest.raises(DiskError, match=r"pixels\.bin: it was cut while it was read"), disk_errors_told():
        _ = images[2]


def test_a_cache_whose_folder_is_removed_stays_readable(photographs: ImageFiles, tmp_path: Path) -> None:
    images = cached(photographs, tmp_path, "disk")
    expected = images[2].clone()
    rmtree(tmp_path / "cache")
    assert torch.equal(images[2], expected)


def test_memory_holds_no_image_twice(photographs: ImageFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that was decoded is let go of as soon as its pixels stand with the others."""
    alive: list[Any] = []

    def watched(*arguments: Any, **settings: Any) -> Iterator[DecodedImage]:
        for image in decode_all(*arguments, **settings):
            alive.append(weakref.ref(image.pixels))
            assert sum(each() is not None for each in alive) <= 2
            yield image

    monkeypatch.setattr(cache, "decode_all", watched)
    many = ImageSubset(photographs, np.arange(50) % 5)
    images = cache_in_memory(many, size=64, skips_broken=False)
    assert len(images) == 50 and torch.equal(images[2], images[47])


def test_a_cache_in_memory_of_images_of_which_none_can_be_read(photographs: ImageFiles) -> None:
    rmtree(photographs.root)
    images = cache_in_memory(photographs, size=64, skips_broken=True)
    assert len(images) == 5 and images.pixels.shape == (0,)
    with pytest.raises(BrokenImage, match="is missing"):
        _ = images[0]


def test_an_image_that_the_system_refused_once_is_not_left_out_for_ever(
    photographs: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photographs.root / "1.jpg").write_bytes(b"no image")
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "2.jpg":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        for _ in range(2):
            images = cached(photographs, tmp_path, "disk", skips_broken=True)
            assert {place: reason for place, (_, reason) in images.problems.items()} == {
                1: "broken",
                2: "unreadable",
            }
        assert is_made(photographs, tmp_path, anew=False)
    assert is_made(photographs, tmp_path, anew=True)
    assert list(cached(photographs, tmp_path, "disk", skips_broken=True).problems) == [1]
    assert is_made(photographs, tmp_path, anew=False)


def test_an_image_that_can_be_read_right_after_the_others_does_not_cost_the_cache(
    photographs: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where too many files were open for a moment."""
    read, refused = Path.read_bytes, set()

    def refuse_once(path: Path) -> bytes:
        if path.name == "2.jpg" and path not in refused:
            refused.add(path)
            raise OSError(errno.EMFILE, "Too many open files", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse_once)
    images = cached(photographs, tmp_path, "disk", skips_broken=True)
    assert list(images.problems) == [2] and images.file is not None
    assert not cached(photographs, tmp_path, "disk", skips_broken=True).problems


def is_made(images: ImageFiles, tmp_path: Path, *, anew: bool) -> bool:
    """Whether the cache on disk is made anew, or not, when it is opened."""
    file = tmp_path / "cache" / "pixels" / "pixels.bin"
    before = file.stat().st_ino, file.stat().st_mtime_ns
    cached(images, tmp_path, "disk", skips_broken=True)
    return ((file.stat().st_ino, file.stat().st_mtime_ns) != before) == anew
