"""What all sources do alike: seeded parts, caption choice, images that cannot be read."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from miniclip import data
from miniclip.data import Folder, Split
from miniclip.errors import SettingError, UserError
from tests.data.sources.conftest import COMMON, MEASURED, SEEDED, five_captions, part_ids, put_images


@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
def test_missing_images_are_replaced_and_counted_if_asked(
    tmp_path: Path, picture_folder: Path, cache: Any
) -> None:
    rows = "".join(f"{i}.jpg,number {i}\n" for i in [*range(12), 77])
    (tmp_path / "table.csv").write_text(f"image,caption\n{rows}")
    tables = {f"{side}_csv": str(tmp_path / "table.csv") for side in ("train", "val")}
    roots = {f"{side}_root": str(picture_folder) for side in ("train", "val")}
    columns = {"image_column": None, "caption_column": None, "separator": None}
    settings: dict[str, Any] = {**tables, **roots, **columns, **COMMON}
    with pytest.raises(UserError, match=r"77\.jpg"):
        data.CSVTable(**settings).datasets()
    skip = {"on_broken_image": "skip", "max_broken_fraction": 0.1, "cache_dir": str(tmp_path / "cache")}
    train, val = data.CSVTable(**settings, **skip, cache=cache).datasets()
    item = train.item((0, 12))
    assert item.problem is not None and item.problem.reason == "missing" and item.index == 0
    assert len(train) == 13 and len(val) == 12


def test_every_caption_is_an_item_with_captions_all(root: Path, picture_folder: Path) -> None:
    put_images(picture_folder, root / "Images")
    lines = [
        f"{i}.jpg#{k}\t{text}\n" for i in range(12) for k, text in enumerate(five_captions(i)[: 1 + i % 3])
    ]
    (root / "Flickr8k.token.txt").write_text("".join(lines))
    train, val = data.Flickr8k(root=str(root), captions="all", **SEEDED).datasets()
    expected = [text for own in train.split.captions for text in own]
    assert [train[i][1] for i in range(len(train))] == expected
    assert len(val) == 3 and val[0][1] == val.split.captions[0][0]
    first, _ = data.Flickr8k(root=str(root), captions="first", **SEEDED).datasets()
    assert [first[epoch, 0][1] for epoch in range(5)] == [first.split.captions[0][0]] * 5
    random, _ = data.Flickr8k(root=str(root), captions="random", **SEEDED).datasets()
    place = max(range(9), key=lambda i: len(random.split.captions[i]))
    assert len({random[epoch, place][1] for epoch in range(20)}) == 3


def test_broken_images_are_replaced_in_training_and_left_out_of_validation(
    root: Path, picture_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_images(picture_folder, root / "Images")
    (root / "Flickr8k.token.txt").write_text("".join(f"{i}.jpg#0\tpicture {i}\n" for i in range(12)))
    settings = {"on_broken_image": "skip", "max_broken_fraction": 0.4, **SEEDED}
    train, val = data.Flickr8k(root=str(root), **settings).datasets()
    for split in (train.split, val.split):
        (root / "Images" / split.ids[1]).write_bytes(b"<html>not found</html>")
    train, val = data.Flickr8k(root=str(root), **settings).datasets()
    item = train.item((0, 1))
    assert item.problem is not None and train.split.ids[1] in str(item.problem)
    assert item.caption == train.split.captions[2][0] and item.index == 2
    assert len(val) == 2 and "Left out of the seeded val split" in caplog.text
    with pytest.raises(UserError, match=r"max_broken_fraction=0\.1"):
        data.Flickr8k(root=str(root), **settings | {"max_broken_fraction": 0.1}).datasets()

    for image_id in val.split.ids:
        (root / "Images" / image_id).unlink()
    with pytest.raises(UserError, match=r"None of the 3 images of the seeded val split can be read \("):
        data.Flickr8k(root=str(root), **settings | {"max_broken_fraction": 1.0}).datasets()


def test_a_seeded_test_part_leaves_the_validation_part_as_it_is(picture_folder: Path) -> None:
    for i in range(12):
        (picture_folder / f"{i}.txt").write_text(f"number {i}")
    plain = part_ids(Folder(root=str(picture_folder), **MEASURED))
    found = part_ids(Folder(root=str(picture_folder), seeded_test_fraction=0.34, **MEASURED))
    assert found["seeded val"] == plain["seeded val"]
    assert len(found["seeded test"]) == 3
    assert sorted(found["train"] + found["seeded test"]) == sorted(plain["train"])
    for fraction in (-0.1, 1.0):
        with pytest.raises(SettingError, match="seeded_test_fraction"):
            Folder(root=str(picture_folder), seeded_test_fraction=fraction, **MEASURED)


def test_a_source_without_a_validation_part_is_told_how_to_make_one(picture_folder: Path) -> None:
    class OnePart(Folder):
        def splits(self) -> tuple[Split, ...]:
            return super().splits()[:1]

    for i in range(12):
        (picture_folder / f"{i}.txt").write_text(f"number {i}")
    source = OnePart(root=str(picture_folder), **MEASURED)
    for read in (source.datasets, source.training_sets):
        with pytest.raises(UserError, match=r"OnePart.splits\(\) gives 1 part;.*set_apart"):
            read()


def test_an_image_without_a_caption_is_told_before_anything_trains(picture_folder: Path) -> None:
    class Uncaptioned(Folder):
        def splits(self) -> tuple[Split, ...]:
            train, val = super().splits()
            captions = [[], *list(train.captions)[1:]]
            return Split("train", train.ids, train.images, captions), val

    for i in range(12):
        (picture_folder / f"{i}.txt").write_text(f"number {i}")
    source = Uncaptioned(root=str(picture_folder), **MEASURED)
    for read in (source.datasets, source.training_sets):
        with pytest.raises(UserError, match=r"The train split: image '\d+.\w+' has no caption"):
            read()


def test_eval_split_names_a_part_there_is(picture_folder: Path) -> None:
    for i in range(12):
        (picture_folder / f"{i}.txt").write_text(f"number {i}")
    source = Folder(root=str(picture_folder), **{**MEASURED, "eval_split": "test"})
    for read in (source.datasets, source.training_sets):
        with pytest.raises(SettingError, match=r"eval_split=test.*seeded_test_fraction"):
            read()


@pytest.mark.parametrize("eval_crop", ["squash", "center"])
def test_training_may_see_what_evaluation_sees(
    tmp_path: Path, picture_folder: Path, eval_crop: Any
) -> None:
    (tmp_path / "table.csv").write_text("image,caption\n0.jpg,one\n1.jpg,two\n")
    table = {"train_csv": str(tmp_path / "table.csv"), "train_root": str(picture_folder)}
    same = {"val_csv": table["train_csv"], "val_root": table["train_root"]}
    columns = {"image_column": None, "caption_column": None, "separator": None}
    settings: dict[str, Any] = {**table, **same, **columns, **COMMON, "crop": "eval", "flip": False}
    for cache in ("none", "memory"):
        train, val = data.CSVTable(**settings, eval_crop=eval_crop, cache=cache).datasets()
        for epoch in range(2):
            assert torch.equal(train[epoch, 1][0], val[1][0])

    with pytest.raises(SettingError, match=r"flip=true: mirrors nothing with data\.crop=eval"):
        data.CSVTable(**settings | {"flip": True})
    with pytest.raises(SettingError, match="cache=features: keeps one view of each image"):
        data.CSVTable(**settings | {"crop": "resized", "cache": "features"})


@pytest.mark.parametrize("captions", ["first", "random", "all"])
def test_captions_are_exchanged_in_what_trains_alone(captioned_root: Path, captions: Any) -> None:
    settings: dict[str, Any] = {**MEASURED, "limit": 8, "captions": captions, "seeded_test_fraction": 0.1}
    clean = Folder(root=str(captioned_root), **settings).training_sets()
    noisy = Folder(root=str(captioned_root), caption_noise=0.5, **settings).training_sets()
    again = Folder(root=str(captioned_root), caption_noise=0.5, **{**settings, "seed": 9}).training_sets()
    assert clean.test is not None and noisy.test is not None
    for before, after in ((clean.val, noisy.val), (clean.test, noisy.test)):
        assert after.split.fingerprint() == before.split.fingerprint()

    # four of the eight that the limit keeps; which ones does not follow from the seed of the run
    pairs = [(clean.train[place][1], noisy.train[place][1]) for place in range(8)]
    assert sum(before != after for before, after in pairs) == 4
    assert again.train.split.fingerprint() == noisy.train.split.fingerprint()
    assert torch.equal(clean.train[3][0], noisy.train[3][0])
    trained, measured = Folder(root=str(captioned_root), caption_noise=0.5, **settings).datasets()
    assert trained.split.fingerprint() == noisy.train.split.fingerprint()
    assert measured.split.fingerprint() == clean.val.split.fingerprint()


def test_wrong_captions_share_the_cache_of_the_right_ones(captioned_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    settings: dict[str, Any] = {**MEASURED, "cache": "disk", "cache_dir": str(folder)}
    clean, _ = Folder(root=str(captioned_root), **settings).datasets()
    num_caches = len(list(folder.glob("pixels-*")))
    noisy, _ = Folder(root=str(captioned_root), caption_noise=1, **settings).datasets()
    assert len(list(folder.glob("pixels-*"))) == num_caches == 2
    for place in range(len(clean)):
        assert torch.equal(clean[place][0], noisy[place][0]) and clean[place][1] != noisy[place][1]


def test_where_everything_is_measured_no_caption_is_exchanged(captioned_root: Path) -> None:
    settings: dict[str, Any] = {**MEASURED, "use": "all"}
    _, clean = Folder(root=str(captioned_root), **settings).datasets()
    nothing, measured = Folder(root=str(captioned_root), caption_noise=1, **settings).datasets()
    assert len(nothing) == 0 and measured.split.fingerprint() == clean.split.fingerprint()


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_who_decodes_images_in_every_epoch_hears_of_the_cache(
    captioned_root: Path, caplog: pytest.LogCaptureFixture, cache: Any
) -> None:
    source = Folder(root=str(captioned_root), **MEASURED, cache=cache)
    with caplog.at_level(logging.INFO):
        source.datasets()
        assert "data.cache" not in caplog.text
        source.training_sets()
    assert ("data.cache=memory (some 0.1 GB)" in caplog.text) == (cache == "none")
