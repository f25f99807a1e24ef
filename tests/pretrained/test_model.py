"""The API as a user has it: from a run to vectors."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from miniclip import MiniCLIP
from miniclip.config.restore import restore
from miniclip.data.images import ImageSubset
from miniclip.errors import SettingError, UserError
from miniclip.runs import RunDirectory
from miniclip.training.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def model(class_run: RunDirectory) -> MiniCLIP:
    return MiniCLIP.from_pretrained(class_run.path)


@pytest.fixture(scope="module")
def files(class_folder: Path) -> list[Path]:
    return sorted(class_folder.glob("*_square/1*.png"))[:6]


def test_a_run_its_checkpoint_and_its_path_as_text_are_one_model(
    class_run: RunDirectory, model: MiniCLIP
) -> None:
    for source in (class_run.best_checkpoint, str(class_run.path)):
        other = MiniCLIP.from_pretrained(source)
        assert other.fingerprint == model.fingerprint
        assert torch.equal(other.encode_text("a red square"), model.encode_text("a red square"))


def test_a_damaged_best_is_told_and_no_other_taken(class_run: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory(shutil.copytree(class_run.path, tmp_path / "run"))
    data = bytearray(run.best_checkpoint.read_bytes())
    data[len(data) // 8] ^= 1  # of the weights, which come first
    run.best_checkpoint.unlink()
    run.best_checkpoint.write_bytes(data)
    (run.checkpoints / "epoch_0001.pt").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        MiniCLIP.from_pretrained(run.path)
    step = load_checkpoint(run.last_checkpoint)["progress"]["step"]
    assert f"{run.best_checkpoint} is damaged" in str(caught.value)
    assert str(caught.value).endswith(f" Sound ones beside it: last.pt (step {step}).")


def test_files_images_pixels_and_batches_are_one(model: MiniCLIP, files: list[Path]) -> None:
    images = [Image.open(file) for file in files]
    pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]
    batch = torch.stack([model.preprocess(image) for image in images])

    features = model.encode_image(files)
    assert features.shape == (len(files), model.embed_dim) and features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=1), torch.ones(len(files)))
    for same in ([str(file) for file in files], images, pixels, batch):
        torch.testing.assert_close(model.encode_image(same), features)
    torch.testing.assert_close(model.encode_image(files, batch_size=4), features)

    for one in (files[0], str(files[0]), images[0], pixels[0], batch[0]):
        torch.testing.assert_close(model.encode_image(one), features[:1])


def test_files_are_seen_as_evaluation_sees_them(class_run: RunDirectory, model: MiniCLIP) -> None:
    _, val_set = restore(class_run.path).datasets()
    source: Any = val_set.split.images
    while isinstance(source, ImageSubset):
        source = source.images
    files = [source.root / name for name in val_set.split.ids]
    torch.testing.assert_close(model.encode_image(files), model.encode_dataset(val_set))


def test_similarity_is_that_of_the_vectors(model: MiniCLIP, files: list[Path]) -> None:
    texts = ["a red square", "blue"]
    images, words = model.encode_image(files), model.encode_text(texts)
    similarity = model.similarity(files, texts)
    assert similarity.shape == (len(files), 2)
    torch.testing.assert_close(similarity, images @ words.T)
    torch.testing.assert_close(model.similarity(images, words), similarity)
    torch.testing.assert_close(model.similarity(files[0], "blue"), similarity[:1, 1:])


def test_of_nothing_there_are_no_vectors(model: MiniCLIP) -> None:
    assert model.encode_image([]).shape == model.encode_text([]).shape == (0, model.embed_dim)


def test_a_rotated_photo_and_a_transparent_one_are_seen_as_in_training(
    model: MiniCLIP, tmp_path: Path
) -> None:
    pixels = np.zeros((30, 60, 3), dtype=np.uint8)
    pixels[:, :20] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    for name in ("turned.png", "clear.png"):
        with Image.open(tmp_path / name) as image:
            torch.testing.assert_close(model.encode_image(image), model.encode_image(tmp_path / name))
    with Image.open(tmp_path / "clear.png") as image:
        white = Image.new("RGB", (40, 40), "white")
        torch.testing.assert_close(model.encode_image(image), model.encode_image(white))


def test_a_text_that_is_cut_is_told(model: MiniCLIP, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model.encode_text(["short", "word " * 400])
    (record,) = caplog.records
    assert "1 text of 2 is longer than the" in record.getMessage()
    caplog.clear()
    model.encode_text("short")
    assert not caplog.records


def test_bfloat16_is_near_and_gives_float32(model: MiniCLIP, class_run: RunDirectory) -> None:
    texts = ["a red square", "blue"]
    half = MiniCLIP.from_pretrained(class_run.path).to("cpu", torch.bfloat16)
    features = half.encode_text(texts)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, model.encode_text(texts), atol=0.03, rtol=0)
    assert not torch.equal(features, model.encode_text(texts))


def test_a_tensor_of_another_shape_is_told(model: MiniCLIP) -> None:
    size = model.preprocess.image_size
    with pytest.raises(
        UserError, match=rf"preprocessed images \(N, 3, {size}, {size}\), not \(1, 3, 8, 8\)"
    ):
        model.encode_image(torch.zeros(3, 8, 8))
    with pytest.raises(UserError, match=r"\(3, H, W\) and uint8"):
        model.encode_image([torch.zeros(3, 8, 8)])


def test_what_is_no_image_is_told(model: MiniCLIP) -> None:
    array = np.zeros((8, 8, 3), np.uint8)
    for images, told in (
        (array, "not ndarray"),
        ([array], r"PIL\.Image\.fromarray"),
        ([None], "not NoneType"),
        (torch.zeros(3, 0, 8, dtype=torch.uint8), r"not \(3, 0, 8\)"),
    ):
        with pytest.raises(UserError, match=told):
            model.encode_image(images)  # type: ignore[arg-type]


def test_a_batch_is_of_one_image_at_least_and_of_any_float(model: MiniCLIP) -> None:
    images = torch.rand(2, 3, model.preprocess.image_size, model.preprocess.image_size)
    assert torch.equal(model.encode_image(images.double()), model.encode_image(images))
    for batch_size in (0, -1):
        with pytest.raises(SettingError, match=f"batch_size={batch_size}"):
            model.encode_image(images, batch_size=batch_size)
        with pytest.raises(SettingError, match=f"batch_size={batch_size}"):
            model.encode_text("a dog", batch_size=batch_size)


def test_asking_for_the_scale_changes_no_mode(model: MiniCLIP) -> None:
    network = model.model.train()
    network.image_encoder.eval()
    modes = [module.training for module in network.modules()]
    assert model.logit_scale > 0
    assert [module.training for module in network.modules()] == modes
    network.eval()


def test_a_move_that_fails_changes_nothing(model: MiniCLIP) -> None:
    with pytest.raises(SettingError, match=r"dtype=torch\.float64: must be torch\.float32"):
        model.to("cpu", torch.float64)
    with pytest.raises(RuntimeError):
        model.to("nowhere", torch.bfloat16)
    assert (model.device, model.precision) == (torch.device("cpu"), "float32")


def test_a_model_in_onnx_is_named(tmp_path: Path) -> None:
    (tmp_path / "onnx.json").write_text("{}")
    with pytest.raises(UserError, match=r"miniclip\.deploy\.OnnxModel"):
        MiniCLIP.from_pretrained(tmp_path)


def test_an_image_that_cannot_be_read_is_named(model: MiniCLIP, tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"no\.jpg is no image"):
        model.encode_image([tmp_path / "no.jpg"])
    with pytest.raises(UserError, match=r"gone\.jpg is missing"):
        model.encode_image(tmp_path / "gone.jpg")


def test_a_wrong_path_is_told() -> None:
    with pytest.raises(UserError, match="checkpoint nowhere does not exist"):
        MiniCLIP.from_pretrained("nowhere")


def test_importing_the_package_is_light_and_the_api_needs_no_hydra(
    class_run: RunDirectory, files: list[Path]
) -> None:
    code = """if True:
        import sys
        import miniclip
        assert not {"torch", "numpy", "PIL"} & sys.modules.keys()
        assert {*dir(miniclip)} == {"SAM", "MiniCLIP", "__version__"}

        from miniclip import SAM, MiniCLIP
        model = MiniCLIP.from_pretrained(sys.argv[1])
        model.encode_text("a red square")
        assert not {"torchvision", "timm", "torch._dynamo"} & sys.modules.keys()
        model.encode_image(sys.argv[2])
        assert not {"hydra", "omegaconf", "matplotlib", "transformers", "sklearn"} & sys.modules.keys()
    """
    command = [sys.executable, "-c", code, str(class_run.path), str(files[0])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("photo.txt", "", "holds no model: it is no run with checkpoints and no whole saved model"),
        ("config.json", '{"library": "miniclip"}', "no whole saved model"),
        ("open_clip_config.json", "{}", "holds a model in the format open_clip, .*Name the run"),
        ("config.json", '{"model_type": "bert"}', r"in the format transformers \(bert\)"),
    ],
)
def test_a_folder_without_a_model_of_ours_is_told(
    name: str, content: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    for load in (MiniCLIP.from_pretrained, restore):
        with pytest.raises(UserError, match=said):
            load(tmp_path)
