"""Models in ONNX: every kind of part gives torch's features, in batches and lengths of any size."""

import io
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper, load
from PIL import Image

from miniclip import MiniCLIP
from miniclip.data.eval_preprocessing import EvalPreprocessing
from miniclip.data.image_content import decode_without_torch, evaluated_size
from miniclip.deploy import OnnxModel
from miniclip.deploy.onnx_export import _check_difference, _write_graph, export_onnx
from miniclip.deploy.onnx_files import Precision
from miniclip.deploy.onnx_precision import _in_int8, give_own_inputs
from miniclip.errors import UserError
from miniclip.runs import RunDirectory
from tests.bundles import CAPTIONS, bundle_of
from tests.data.conftest import LYING, encoded, lying
from tests.in_process import Answer
from tests.reliability.limits import largest_file

KINDS = (
    ["temperature=learned", "tokenizer=wordpiece", "data.eval_crop=center"],
    ["encoder/text/attention=linformer", "encoder.text.pooling=eos", "projection=separate"],
    ["encoder/image=resnet18", "encoder/text=bag"],
    ["encoder.image.architecture=test_vit", "encoder/text/attention=full"],
    ["encoder/text/attention=performer", "encoder.text.pooling=max"],
    ["encoder/text/attention=nystrom", "projection=linear"],
    ["encoder/text/attention=reformer", "projection=none", "temperature=fixed"],
    ["encoder/text/attention=bigbird", "encoder.text.pooling=cls", "loss=siglip"],
)

TEXTS = [*CAPTIONS, "", "a <pad> dog<end> [SEP] </s> <|endoftext|> runs", "a dog " * 60]


def drawings() -> list[Image.Image]:
    """Three images of other sizes."""
    generator = np.random.default_rng(0)
    sizes = ((40, 60), (32, 32), (90, 31))
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.fixture(scope="module")
def model() -> MiniCLIP:
    return MiniCLIP(bundle_of())


@pytest.fixture(scope="module")
def exported(model: MiniCLIP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "exported"
    model.model.text_encoder.train()  # see `test_an_export_leaves_each_part_in_its_mode`
    export_onnx(model, folder, images=drawings(), texts=CAPTIONS)
    return folder


def test_batches_and_lengths_of_any_size_give_torchs_features(model: MiniCLIP, exported: Path) -> None:
    assert_gives_features_of(model, OnnxModel(exported))


@pytest.mark.parametrize("num_threads", [1, 2, 3, 32])
def test_threads_change_neither_vectors_nor_their_order(num_threads: int, exported: Path) -> None:
    texts = [f"a dog and {number} cats" for number in range(150)]
    images = np.random.default_rng(0).normal(size=(70, 3, 32, 32))
    several, one = OnnxModel(exported, num_threads=num_threads), OnnxModel(exported, num_threads=1)

    for count in (0, 1, 2, 70):
        of_images, of_texts = several.encode_image(images[:count]), several.encode_text(texts[:count])
        np.testing.assert_allclose(of_images, one.encode_image(images)[:count], atol=1e-6)
        np.testing.assert_allclose(of_texts, one.encode_text(texts)[:count], atol=1e-6)


def test_texts_that_are_cut_are_told_once(exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    OnnxModel(exported).encode_text(["a dog " * 60] * 150)
    (warning,) = caplog.messages
    assert warning.startswith("150 of 150 texts longer than the ")


def test_the_convolution_of_a_small_map_is_a_matrix_product(model: MiniCLIP, exported: Path) -> None:
    """Of timm's `test_resnet` at 32 pixels the last 3x3 convolution alone sees so small a map."""
    image_tower = model.model.image_encoder
    num_convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in image_tower.modules())
    nodes = [node.op_type for node in load(exported / "image.onnx").graph.node]
    assert nodes.count("Conv") == num_convolutions - 1


@pytest.mark.long
@pytest.mark.parametrize("kinds", KINDS)
def test_every_kind_of_part_gives_the_features_of_torch(kinds: list[str], tmp_path: Path) -> None:
    model = MiniCLIP(bundle_of(*kinds))
    done = export_onnx(model, tmp_path, images=drawings(), texts=CAPTIONS)
    assert max(done.image_difference, done.text_difference) < 1e-5
    assert_gives_features_of(model, OnnxModel(tmp_path))


def assert_gives_features_of(model: MiniCLIP, exported: OnnxModel) -> None:
    """Hold an export against torch in batches and lengths that it was not made with."""
    for texts in (TEXTS, TEXTS[:1], ["a"]):
        np.testing.assert_allclose(exported.encode_text(texts), model.encode_text(texts).numpy(), atol=1e-5)
    pixels = np.random.default_rng(0).standard_normal((70, 3, 32, 32)).astype(np.float32)
    for batch in (pixels[:1], pixels):
        theirs = model.encode_image(torch.from_numpy(batch)).numpy()
        np.testing.assert_allclose(exported.encode_image(batch), theirs, atol=1e-5)


@pytest.mark.usefixtures("exported")
def test_an_export_leaves_each_part_in_its_mode(model: MiniCLIP) -> None:
    assert model.model.text_encoder.training and not model.model.image_encoder.training


def test_the_exported_model_is_the_same_model(model: MiniCLIP, exported: Path) -> None:
    onnx = OnnxModel(exported)
    assert onnx.fingerprint == model.fingerprint and onnx.name == model.name
    assert onnx.logit_scale == model.logit_scale and onnx.embed_dim == model.embed_dim
    assert onnx.encode_image([]).shape == onnx.encode_text([]).shape == (0, model.embed_dim)


def test_a_smaller_model_is_another_for_an_index(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "copy")
    config = json.loads((folder / "onnx.json").read_text())
    (folder / "onnx.json").write_text(json.dumps({**config, "precision": "int8"}))
    assert OnnxModel(folder).fingerprint == f"{config['fingerprint']}-int8"


@pytest.mark.parametrize(("key", "value"), [("eval_crop", "centre"), ("precision", "int4")])
def test_a_config_of_what_there_is_not_is_told(
    key: str, value: str, exported: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(exported, tmp_path / "copy")
    config = json.loads((folder / "onnx.json").read_text())
    (folder / "onnx.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(UserError, match=f"has {key}='{value}'. Export the model again"):
        OnnxModel(folder)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (np.zeros((8, 8, 3), np.uint8), "not (8, 8, 3) of uint8"),
        (np.zeros((2, 3, 32, 32), np.uint8), "not (2, 3, 32, 32) of uint8"),
        (np.zeros((2, 3, 16, 16), np.float32), "takes preprocessed images (N, 3, 32, 32)"),
        (np.zeros(3), "not (3) of float64"),
        ([None], "not NoneType"),
        ([np.zeros((8, 8, 3), np.uint8)], "not ndarray"),
    ],
)
def test_what_is_no_image_is_told(images: Any, told: str, exported: Path) -> None:
    with pytest.raises(UserError, match=re.escape(told)) as raised:
        OnnxModel(exported).encode_image(images)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("orientation", LYING)
def test_a_rotated_photo_is_the_upright_one(
    orientation: int, model: MiniCLIP, exported: Path, tmp_path: Path
) -> None:
    photo = drawings()[0]
    upright, rotated = tmp_path / "upright.png", tmp_path / "rotated.png"
    upright.write_bytes(encoded(photo, "PNG"))
    rotated.write_bytes(lying(photo, orientation=orientation))

    for encode in (OnnxModel(exported).encode_image, model.encode_image):
        expected = encode(upright)
        for image in (photo, rotated, Image.open(rotated)):
            np.testing.assert_allclose(encode(image), expected, atol=1e-6)


def test_a_jpeg_that_is_opened_is_seen_as_its_file(exported: Path, tmp_path: Path) -> None:
    onnx = OnnxModel(exported)
    photo = tmp_path / "photo.jpg"
    drawings()[0].resize((400, 300)).save(photo)
    with Image.open(photo) as image:
        np.testing.assert_array_equal(onnx.encode_image(image), onnx.encode_image(photo))
        assert image.size == (400, 300)

    as_evaluated = decode_without_torch(photo.read_bytes(), "photo", decode_size=evaluated_size(32))
    np.testing.assert_array_equal(onnx.encode_image(as_evaluated), onnx.encode_image(photo))


def test_one_image_that_is_not_loaded_may_stand_in_many_places(model: MiniCLIP, exported: Path) -> None:
    content = encoded(drawings()[0].resize((1200, 900)), "PNG")
    for encode in (OnnxModel(exported, num_threads=4).encode_image, model.encode_image):
        features = np.asarray(encode([Image.open(io.BytesIO(content))] * 40))
        np.testing.assert_allclose(features, features[:1].repeat(40, axis=0), atol=1e-6)


def test_one_preprocessed_image_of_any_floats_is_a_batch(exported: Path) -> None:
    onnx = OnnxModel(exported)
    pixels = onnx.preprocess(drawings()[0])
    expected = onnx.encode_image(pixels[None])
    np.testing.assert_array_equal(onnx.encode_image(pixels), expected)
    np.testing.assert_array_equal(onnx.encode_image(pixels.astype(np.float64)), expected)


@pytest.mark.parametrize("crop", ["squash", "center"])
def test_images_are_preprocessed_as_torch_does_it(crop: str, exported: Path) -> None:
    onnx = OnnxModel(exported)
    onnx.eval_crop = crop
    preprocess = EvalPreprocessing(32, crop=crop)
    for image in drawings():
        ours, theirs = onnx.preprocess(image), preprocess(image).numpy()
        levels = np.abs(ours - theirs) * 0.225 * 255  # of 255
        # noise is the worst there is: both clip what overshoots between the directions, in another order
        assert levels.max() < 8 and levels.mean() < 0.5


def test_files_and_images_are_one(exported: Path, tmp_path: Path) -> None:
    onnx = OnnxModel(exported)
    paths = []
    for number, image in enumerate(drawings()):
        paths.append(tmp_path / f"{number}.png")
        image.save(paths[-1])
    features = onnx.encode_image(paths)
    np.testing.assert_allclose(onnx.encode_image(drawings()), features, atol=1e-6)
    np.testing.assert_allclose(onnx.encode_image(str(paths[1])), features[1:2], atol=1e-6)
    assert onnx.similarity(paths, "a dog").shape == (3, 1)


@pytest.mark.long
def test_smaller_graphs_are_near(model: MiniCLIP, exported: Path, tmp_path: Path) -> None:
    whole = sum((exported / name).stat().st_size for name in ("image.onnx", "text.onnx"))
    for precision, near in (("fp16", 0.01), ("int8", 0.2)):
        folder = tmp_path / precision
        done = export_onnx(model, folder, images=drawings(), texts=CAPTIONS, precision=precision)  # type: ignore[arg-type]
        assert 0 < max(done.image_difference, done.text_difference) < near
        assert sum((folder / name).stat().st_size for name in ("image.onnx", "text.onnx")) < 0.8 * whole

    # what a convolution in int8 reads, nothing else does: the sums of blocks are in float32
    nodes = load(str(tmp_path / "int8" / "image.onnx")).graph.node
    rounded = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    of_convolutions = {node.input[0] for node in nodes if node.op_type == "Conv"} & rounded
    of_others = {name for node in nodes if node.op_type != "Conv" for name in node.input}
    assert of_convolutions and not of_convolutions & of_others


def test_cheap_convolutions_whose_errors_all_others_have_stay_in_float32() -> None:
    def convolution(name: str, side: int, stride: int | None) -> Any:
        strides = {} if stride is None else {"strides": [stride, stride]}
        return helper.make_node("Conv", ["x", "w"], ["y"], name=name, kernel_shape=[side, side], **strides)

    nodes = [
        convolution("first", 7, 2),
        convolution("strided", 3, 2),
        convolution("shortcut", 1, 2),
        convolution("pointwise", 1, 1),
        convolution("plain", 1, None),
    ]
    assert _in_int8(nodes) == ["strided", "pointwise", "plain"]
    assert _in_int8(nodes[:1]) == []


def test_only_the_input_of_a_convolution_is_rounded_not_what_its_result_is_added_to() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], name="in_int8"),
        helper.make_node("Add", ["x", "y"], ["sum"], name="residual"),
        helper.make_node("Conv", ["sum", "w"], ["z"], name="in_float32"),
    ]
    give_own_inputs(nodes, ["in_int8"])
    assert [(node.op_type, *node.input, *node.output) for node in nodes] == [
        ("Identity", "x", "in_int8.own_input"),
        ("Conv", "in_int8.own_input", "w", "y"),
        ("Add", "x", "y", "sum"),
        ("Conv", "sum", "w", "z"),
    ]


@pytest.mark.parametrize("name", ["image.onnx", "text.onnx", "tokenizer.json"])
def test_a_file_that_is_another_is_named(exported: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(exported, tmp_path / "copy")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        OnnxModel(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} cannot be read"):
        OnnxModel(folder)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_features_that_are_no_numbers_are_not_kept(precision: Precision) -> None:
    with pytest.raises(UserError, match=f"exported in {precision} differs from torch's by nan"):
        _check_difference(math.nan, precision)


def test_a_failed_export_leaves_no_graph(
    model: MiniCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miniclip.deploy.onnx_export.LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(UserError, match="It was not kept"):
        export_onnx(model, tmp_path / "exported", images=drawings(), texts=CAPTIONS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_graphs_that_do_not_run_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # ONNX rounds the division of a negative number up, and python down
    monkeypatch.setattr("miniclip.models.attention.bigbird.rounded_up", lambda a, b: -(-a // b) * b)
    model = MiniCLIP(bundle_of("encoder/text/attention=bigbird"))
    with pytest.raises(UserError, match="do not run"):
        export_onnx(model, tmp_path / "exported", images=drawings(), texts=CAPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_export_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model in ONNX"):
        OnnxModel(tmp_path)
    (tmp_path / "onnx.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        OnnxModel(tmp_path)
    (tmp_path / "onnx.json").write_text(json.dumps({"library": "other"}))
    with pytest.raises(UserError, match="is of no model in ONNX"):
        OnnxModel(tmp_path)


def test_no_torch_is_loaded(exported: Path) -> None:
    code = """if True:
        import sys
        from miniclip.deploy import OnnxModel
        OnnxModel(sys.argv[1]).encode_text("a dog")
        assert not {"torch", "torchvision", "hydra", "transformers"} & sys.modules.keys()
    """
    done = subprocess.run([sys.executable, "-c", code, exported], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_run_is_exported_measured_embedded_and_searched(
    class_run: RunDirectory, class_folder: Path, tmp_path: Path, miniclip: Callable[..., Answer]
) -> None:
    run = shutil.copytree(class_run.path, tmp_path / "run")
    done = miniclip("export", run, "--format", "onnx", "-o", "onnx")
    assert done.returncode == 0, done.stderr
    assert "differs from torch by at most" in done.stdout

    measured = miniclip("evaluate", run, "onnx", "retrieval")
    assert measured.returncode == 0, measured.stderr
    ours, theirs = (line.split() for line in measured.stdout.splitlines()[-2:])
    assert (ours[0], theirs[0]) == (str(run), "onnx") and ours[1:] == theirs[1:]

    # an index of the run's is searched by its export, whose vectors are the same
    assert miniclip("embed", run, class_folder, "-o", "index").returncode == 0
    answers = []
    for model in (run, "onnx"):
        found = miniclip("search", "index", "red square", "--model", model, "-k", 5, "--json")
        assert found.returncode == 0, found.stderr
        (query,) = json.loads(found.stdout)["queries"]
        answers.append([result["score"] for result in query["results"]])
    assert answers[0] == pytest.approx(answers[1], abs=2e-3)


def test_a_run_is_saved(class_run: RunDirectory, miniclip: Callable[..., Answer], tmp_path: Path) -> None:
    done = miniclip("export", class_run.path, "-o", "saved")
    assert done.returncode == 0, done.stderr
    assert (
        MiniCLIP.from_pretrained(tmp_path / "saved").fingerprint
        == MiniCLIP.from_pretrained(class_run.path).fingerprint
    )


def test_a_graph_that_does_not_fit_on_the_disk_is_named(tmp_path: Path) -> None:
    tower, path = torch.nn.Linear(64, 64), tmp_path / "image.onnx"
    with pytest.raises(OSError, match=f"too large: '{path}'"), largest_file(1000):
        _write_graph(tower, {"input": torch.ones(2, 64)}, 1, path, "fp32")
    assert not list(tmp_path.iterdir())
