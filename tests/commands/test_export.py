"""Images that an export is held against torch on, and refusals; each format has a test of its own."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from miniclip import MiniCLIP
from miniclip.commands.export import NUM_SAMPLES, _samples
from miniclip.config.restore import restore
from miniclip.errors import UserError
from miniclip.runs import RunDirectory
from tests.conftest import parts_of
from tests.data.conftest import encoded, lying
from tests.in_process import Answer


@pytest.fixture(scope="module")
def model(class_run: RunDirectory) -> MiniCLIP:
    return MiniCLIP.from_pretrained(class_run.path)


def test_images_of_the_run_are_taken(model: MiniCLIP, class_run: RunDirectory) -> None:
    images, texts = _samples(model, Namespace(model=class_run.path, images=None, int8=False))
    split = restore(class_run.path).datasets()[0].split
    assert 2 <= len(images) == len(texts) <= NUM_SAMPLES
    own = {split.images[index].numpy().tobytes() for index in range(len(split))}
    assert {np.asarray(image).transpose(2, 0, 1).tobytes() for image in images} <= own


def test_captions_that_are_cut_are_not_compared(
    model: MiniCLIP, class_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Namespace(model=class_run.path, images=None, int8=False)
    _, texts = _samples(model, options)
    monkeypatch.setattr(model.tokenizer, "too_long", lambda texts: list(texts)[:3])
    assert _samples(model, options)[1] == [text for text in texts if text not in texts[:3]]

    monkeypatch.setattr(model.tokenizer, "too_long", list)
    assert _samples(model, options)[1] == texts  # better than none


def test_images_of_a_folder_are_taken_from_its_whole_breadth(
    model: MiniCLIP, class_run: RunDirectory, tmp_path: Path
) -> None:
    for level in range(2 * NUM_SAMPLES):
        Image.new("RGB", (8, 8), (level, 0, 0)).save(tmp_path / f"{level:03}.png")
    images, texts = _samples(model, Namespace(model=class_run.path, images=tmp_path, int8=True))
    assert [image.getpixel((0, 0))[0] for image in images] == list(range(0, 2 * NUM_SAMPLES, 2))  # type: ignore[index]
    assert len(texts) >= 2

    for level in range(100, 2 * NUM_SAMPLES):
        (tmp_path / f"{level:03}.png").unlink()
    fewer, _ = _samples(model, Namespace(model=class_run.path, images=tmp_path, int8=True))
    levels = [image.getpixel((0, 0))[0] for image in fewer]  # type: ignore[index]
    assert len(levels) == NUM_SAMPLES and levels[0] == 0 and levels[-1] > 95

    for path in list(tmp_path.iterdir())[1:]:
        path.unlink()
    with pytest.raises(UserError, match="is no folder with two images"):
        _samples(model, Namespace(model=class_run.path, images=tmp_path, int8=True))


def test_rotated_images_of_a_folder_are_seen_upright(
    model: MiniCLIP, class_run: RunDirectory, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels)
    (tmp_path / "upright.png").write_bytes(encoded(photo, "PNG"))
    (tmp_path / "rotated.png").write_bytes(lying(photo))
    images, _ = _samples(model, Namespace(model=class_run.path, images=tmp_path, int8=True))
    first, second = (model.preprocess(image) for image in images)
    assert torch.equal(first, second)


def test_without_images_of_its_own_int8_says_what_it_is_calibrated_on(
    model: MiniCLIP, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model.save_pretrained(tmp_path)
    images, _ = _samples(model, Namespace(model=tmp_path, images=None, int8=True))
    assert len(images) == NUM_SAMPLES
    assert "int8 is calibrated on drawings" in caplog.text


def test_a_run_whose_data_are_not_opened_says_so(
    model: MiniCLIP, class_run: RunDirectory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = parts_of(class_run.best_checkpoint)
    del content["signature"]
    torch.save(content, tmp_path / "foreign.pt")
    images, _ = _samples(model, Namespace(model=tmp_path / "foreign.pt", images=None, int8=False))
    assert len(images) == NUM_SAMPLES
    assert "so drawings are taken" in caplog.text and "was not trained by you" in caplog.text


def test_precisions_are_those_of_onnx(class_run: RunDirectory, miniclip: Callable[..., Answer]) -> None:
    done = miniclip("export", class_run.path, "--int8", "-o", "out")
    assert done.returncode == 1 and "--fp16 and --int8 go with --format onnx" in done.stderr


def test_an_option_that_would_do_nothing_is_told(
    class_run: RunDirectory, miniclip: Callable[..., Answer]
) -> None:
    done = miniclip("export", class_run.path, "--images", "photos", "-o", "out")
    assert done.returncode == 1 and "--images goes with the formats" in done.stderr


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_one_line(
    class_run: RunDirectory, miniclip: Callable[..., Answer], tmp_path: Path, out: str
) -> None:
    (tmp_path / "file").touch()
    done = miniclip("export", class_run.path, "-o", tmp_path / out)
    assert done.returncode == 1 and done.stderr.startswith(f"Error: {tmp_path / out}: ")
    assert done.stderr.count("\n") == 1
