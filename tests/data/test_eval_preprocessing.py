"""The preprocessing of evaluation: crops by hand, its state, and that a checkpoint's own is used."""

import io
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from miniclip.config.restore import restore
from miniclip.data.dataset import ImageTextDataset
from miniclip.data.eval_preprocessing import EvalPreprocessing
from miniclip.data.images import ImageFiles
from miniclip.data.split import Split
from miniclip.errors import BrokenImage, SettingError, UserError
from miniclip.integrations.clip_benchmark import load
from miniclip.preprocessing import MEAN, STD, Preprocessing
from miniclip.runs import RunDirectory
from tests.conftest import parts_of
from tests.data.conftest import LYING, encoded, lying

NOISE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)

PHOTO = Image.fromarray(NOISE).resize((400, 300), Image.Resampling.BICUBIC)

PHOTOS: dict[str, bytes] = {
    "rgb": encoded(PHOTO),
    "grey": encoded(PHOTO.convert("L")),
    "cmyk": encoded(PHOTO.convert("CMYK")),
    "progressive": encoded(PHOTO, progressive=True),
    "two frames": encoded(PHOTO, "MPO", save_all=True, append_images=[PHOTO]),
    "smaller than the model's": encoded(PHOTO.resize((30, 20))),
    "rotated": lying(PHOTO, "JPEG"),
}

STATE: dict[str, Any] = {
    "image_size": 4,
    "eval_crop": "center",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "crop_fraction": 0.875,
}


def test_a_center_crop_without_a_resize_is_a_slice_normalized() -> None:
    image = torch.randint(256, (3, 4, 10), dtype=torch.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    expected = (image[:, :, 3:7] / 255 - mean) / std
    torch.testing.assert_close(EvalPreprocessing(4, crop="center")(image), expected)


def test_squash_keeps_what_lies_at_the_edges() -> None:
    image = torch.zeros(3, 8, 32, dtype=torch.uint8)
    image[:, :, :4] = 255
    squashed, centered = (EvalPreprocessing(8, crop=crop)(image) for crop in ("squash", "center"))
    assert squashed.shape == centered.shape == (3, 8, 8)
    assert (squashed[:, :, 0] > 0).all() and (squashed[:, :, 3:] < 0).all()
    assert (centered < 0).all()


@pytest.mark.parametrize("crop", ["squash", "center"])
def test_an_image_of_pillow_and_its_pixels_are_one(crop: str) -> None:
    pixels = torch.randint(256, (3, 20, 30), dtype=torch.uint8)
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    preprocess = EvalPreprocessing(16, crop=crop)
    assert torch.equal(preprocess(image), preprocess(pixels))


@pytest.mark.parametrize("crop", ["squash", "center"])
@pytest.mark.parametrize("name", PHOTOS)
def test_a_jpeg_that_is_opened_is_seen_as_its_file(name: str, crop: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(PHOTOS[name])
    preprocess = EvalPreprocessing(32, crop=crop)
    expected = preprocess.read(path)

    with Image.open(path) as image, Image.open(io.BytesIO(PHOTOS[name])) as in_memory:
        size = image.size
        assert torch.equal(preprocess(image), expected)
        assert torch.equal(preprocess(image), expected)  # it is as it was
        assert torch.equal(preprocess(in_memory), expected)
        assert image.size == size
        assert np.array_equal(image, Image.open(path))


@pytest.mark.parametrize("crop", ["squash", "center"])
@pytest.mark.parametrize("name", PHOTOS)
def test_a_file_is_seen_as_evaluation_sees_it(name: str, crop: str, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(PHOTOS[name])
    preprocess = EvalPreprocessing(64, crop=crop)
    images = ImageFiles(tmp_path, ["photo.jpg"], decode_size=8)
    split = Split("val", ["photo.jpg"], images, [["a photo"]])
    ((evaluated, _),) = ImageTextDataset.for_evaluation(split, preprocess.crop)
    assert torch.equal(preprocess.read(tmp_path / "photo.jpg"), evaluated)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_several_threads_may_see_one_image_that_is_not_loaded(kind: str) -> None:
    preprocess = EvalPreprocessing(32, crop="squash")
    content = encoded(PHOTO.resize((1200, 900)), kind)
    expected = preprocess(Image.open(io.BytesIO(content)))
    with ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            seen = threads.map(preprocess, [Image.open(io.BytesIO(content))] * 16)
            assert all(torch.equal(one, expected) for one in seen)


def test_a_jpeg_that_is_loaded_keeps_its_pixels(tmp_path: Path) -> None:
    preprocess = EvalPreprocessing(32, crop="squash")
    with Image.open(io.BytesIO(PHOTOS["rgb"])) as image:
        image.load()
        assert torch.equal(preprocess(image), preprocess(Image.fromarray(np.array(image))))


def test_a_scale_that_a_user_chose_is_kept() -> None:
    preprocess = EvalPreprocessing(8, crop="squash")
    with Image.open(io.BytesIO(PHOTOS["rgb"])) as image:
        image.draft("RGB", (150, 100))
        seen = preprocess(image)
        assert torch.equal(seen, preprocess(Image.fromarray(np.array(image))))


def test_a_frame_that_a_user_chose_is_kept() -> None:
    preprocess = EvalPreprocessing(8, crop="squash")
    frames = encoded(PHOTO, "MPO", save_all=True, append_images=[PHOTO.rotate(180)])
    with Image.open(io.BytesIO(frames)) as image:
        image.seek(1)
        second = preprocess(image)
        assert torch.equal(second, preprocess(Image.fromarray(np.array(image))))


def test_an_orientation_that_a_user_changed_holds() -> None:
    preprocess = EvalPreprocessing(32, crop="squash")
    with Image.open(io.BytesIO(PHOTOS["rotated"])) as image:
        image.getexif()[ExifTags.Base.Orientation] = 1
        as_it_lies = preprocess(image)
    with Image.open(io.BytesIO(encoded(PHOTO.transpose(LYING[6])))) as image:
        assert torch.equal(as_it_lies, preprocess(image))


def test_a_state_makes_the_same_again() -> None:
    preprocessing = EvalPreprocessing.from_state(STATE)
    assert preprocessing.state() == STATE
    assert preprocessing.trained_with == Preprocessing((0.5,) * 3, (0.5,) * 3, "bicubic", 0.875)


@pytest.mark.parametrize(("former", "now"), [("whole", "squash"), ("centre", "center")])
def test_former_names_of_crops_are_read(former: str, now: str) -> None:
    assert EvalPreprocessing.from_state({**STATE, "eval_crop": former}).state()["eval_crop"] == now


@pytest.mark.parametrize(
    ("key", "value"), [("eval_crop", "left"), ("eval_crop", None), ("image_size", "4"), ("image_size", 0)]
)
def test_anything_else_is_refused(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=re.escape(repr(value))):
        EvalPreprocessing.from_state({**STATE, key: value})


def test_a_crop_that_is_none_is_refused() -> None:
    with pytest.raises(SettingError, match="eval_crop=left: must be squash or center"):
        EvalPreprocessing(4, crop="left")


def test_a_checkpoints_own_preprocessing_is_what_evaluation_does(
    class_run: RunDirectory, tmp_path: Any
) -> None:
    checkpoint = parts_of(class_run.best_checkpoint)
    assert checkpoint["preprocessing"]["eval_crop"] == "squash"
    checkpoint["preprocessing"] |= {"eval_crop": "center", "image_size": 24}
    torch.save(checkpoint, tmp_path / "other.pt")

    restored = restore(tmp_path / "other.pt")
    _, transform, _ = load(str(tmp_path / "other.pt"), "best", "", "cpu")
    _, val = restored.datasets()
    assert val[0][0].shape == (3, 24, 24)
    assert torch.equal(restored.preprocessing(val.split.images[0]), val[0][0])
    assert torch.equal(transform(Image.fromarray(val.split.images[0].permute(1, 2, 0).numpy())), val[0][0])

    changed = restore(tmp_path / "other.pt", "data.eval_crop=squash")
    assert changed.preprocessing.crop_name == changed.config.data.eval_crop == "squash"
    elsewhere = restore(tmp_path / "other.pt", "data=openmoji", "data.limit=20")
    assert elsewhere.config.data.eval_crop == "center" and elsewhere.config.data.image_size == 24


def test_a_checkpoint_with_an_unknown_crop_is_refused(class_run: RunDirectory, tmp_path: Any) -> None:
    checkpoint = parts_of(class_run.best_checkpoint)
    checkpoint["preprocessing"]["eval_crop"] = "left"
    torch.save(checkpoint, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"other\.pt cannot be restored: the preprocessing 'left'"):
        restore(tmp_path / "other.pt")


def test_an_open_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    Image.effect_noise((90, 120), 50).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:3000])
    with Image.open(tmp_path / "cut.png") as closed:
        pass
    for image, told in (
        (Image.new("RGB", (8, 8)).crop((5, 5, 5, 8)), r"The image \(RGB, 0 x 3\) has no pixels"),
        (
            Image.new("F", (8, 8), 0.5),
            r"The image \(F, 8 x 8\) cannot be read \(its pixels are between 0.5",
        ),
        (
            Image.open(tmp_path / "cut.png"),
            r"cut\.png \(L, 90 x 120\) cannot be read \(image file is trunc",
        ),
        (closed, r"cut\.png \(L, 90 x 120\) cannot be read \(AssertionError"),
    ):
        with pytest.raises(BrokenImage, match=told):
            EvalPreprocessing(32, crop="squash")(image)
