"""Sets of classes that torchvision reads, and folders with parts."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from miniclip.config.compose import compose
from miniclip.config.instantiate import make
from miniclip.data import ImageClasses, ImageTextDataset
from miniclip.errors import BrokenImage, SettingError
from tests.conftest import CLASSES


def datasets_of(*settings: str) -> tuple[ImageTextDataset, ImageTextDataset]:
    return make(compose(*settings), "data").datasets()


def test_held_out_folders_have_several_names(class_folder: Path, tmp_path: Path) -> None:
    for part in ("train", "valid"):
        shutil.copytree(class_folder, tmp_path / part)
    train, val = datasets_of("data=imagefolder", f"data.root={tmp_path}")
    assert (len(train), len(val), val.split.name) == (60, 60, "valid")
    assert set(val.split.labels or ()) == {name.replace("_", " ") for name in CLASSES}


def test_torchvisions_cifar_is_read_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = {"label_names": ["plane", "big_car"]}
    parts = {"data_batch_1": 6, "test_batch": 4, "batches.meta": 0}
    sums = {}
    for name, count in parts.items():
        pixels = np.random.default_rng(count).integers(0, 256, (count, 3072), dtype=np.uint8)
        content = names if not count else {"data": pixels, "labels": [i % 2 for i in range(count)]}
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    cifar = torchvision.datasets.CIFAR10
    monkeypatch.setattr(cifar, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(cifar, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": sums["batches.meta"]})
    settings = {"image_size": 32, "crop_scale": [0.9, 1.0], "flip": True, "limit": None, "seed": 0}
    settings |= {"root": str(tmp_path), "val_fraction": 0.1, "split_seed": 0}
    train, val = ImageClasses(dataset="CIFAR10", **settings).splits()
    assert (len(train), len(val)) == (6, 4)
    assert val.images[1].shape == (3, 32, 32) and list(val.captions[1]) == ["big car"]
    assert list(val.labels or ()) == ["plane", "big car"] * 2
    with pytest.raises(SettingError, match="does not hold Food101"):
        ImageClasses(dataset="Food101", **settings).splits()


def test_torchvisions_cifar100_food101_and_pets_are_read_where_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files in the layouts that torchvision unpacks, two classes and two images of each a part."""
    import torchvision.datasets as sets

    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    rows = {"data": pixels, "fine_labels": [0, 1, 0, 1]}
    contents = {"train": rows, "test": rows, "meta": {"fine_label_names": ["apple", "aquarium_fish"]}}
    sums = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(sets.CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(sets.CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(sets.CIFAR100, "meta", {**sets.CIFAR100.meta, "md5": sums["meta"]})

    food = tmp_path / "food-101"
    pets = tmp_path / "oxford-iiit-pet"
    for path in (food / "meta", pets / "annotations", pets / "images"):
        path.mkdir(parents=True)
    for part, pet_part, numbers in (("train", "trainval", (1, 2)), ("test", "test", (3, 4))):
        dishes = {dish: [f"{dish}/{number}" for number in numbers] for dish in ("apple_pie", "sushi")}
        (food / "meta" / f"{part}.json").write_text(json.dumps(dishes))
        for name in (name for own in dishes.values() for name in own):
            (food / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30)).save(food / "images" / f"{name}.jpg")
        rows_of_pets = [
            f"{breed}_{number} {label} 1 1"
            for label, breed in enumerate(("Abyssinian", "pug"), start=1)
            for number in numbers
        ]
        (pets / "annotations" / f"{pet_part}.txt").write_text("\n".join(rows_of_pets) + "\n")
        for row in rows_of_pets:
            Image.new("RGB", (40, 30)).save(pets / "images" / f"{row.split()[0]}.jpg")

    for option, names in (
        ("cifar100", {"apple", "aquarium fish"}),
        ("food101", {"apple pie", "sushi"}),
        ("oxford_pets", {"Abyssinian", "Pug"}),
    ):
        own = f"data={option}", f"data.root={tmp_path}", "data.val_fraction=0.5"
        train, test = datasets_of(*own, "data.eval_split=test")
        assert (len(train), len(test), test.split.name) == (2, 4, "test")
        assert datasets_of(*own)[1].split.name == "seeded val"
        assert set(test.split.labels or ()) == names
        assert {text for own in test.split.captions for text in own} == names
        assert test[3][0].shape[0] == 3

    rotated = Image.Exif()
    rotated[ExifTags.Base.Orientation] = 6
    for option, path in (
        ("food101", food / "images/sushi/4.jpg"),
        ("oxford_pets", pets / "images/pug_4.jpg"),
    ):
        Image.new("RGB", (40, 30)).save(path, exif=rotated)
        _, test = datasets_of(f"data={option}", f"data.root={tmp_path}", "data.eval_split=test")
        before = test.split.images.identity
        assert test.split.images[3].shape == (3, 40, 30)
        path.write_bytes(b"broken")
        assert test.split.images.identity != before
        with pytest.raises(BrokenImage, match="no image"):
            test.split.images[3]
