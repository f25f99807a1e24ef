"""Models as folders of open_clip, which reads them as its users do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from miniclip import MiniCLIP
from miniclip.deploy.open_clip_export import export_open_clip
from miniclip.errors import UserError
from tests.bundles import CAPTIONS, bundle_of, hugging_face_folder
from tests.in_process import Answer

TRANSFORMER = ("encoder/text/attention=full", "encoder.text.pooling=cls")

TEXTS = [*CAPTIONS, "", "a <pad> dog<end> [SEP] </s> <|endoftext|> runs", "a dog " * 60]

KINDS = (
    [*TRANSFORMER, "projection=linear", "temperature=learned", "loss=siglip"],
    [*TRANSFORMER, "projection=none", "encoder/image=resnet18", "tokenizer=wordpiece"],
    [*TRANSFORMER, "projection=none", "encoder.image.architecture=test_efficientnet"],
    [*TRANSFORMER, "projection=none", "encoder.image.architecture=test_convnext", "tokenizer=clip"],
    [*TRANSFORMER, "projection=none", "encoder.image.architecture=test_vit", "image_size=160"],
)

HF_KINDS = (
    ("bert", ["projection=linear", "encoder.text.pooling=mean"]),
    ("roberta", ["projection=none", "encoder.text.pooling=cls", "temperature=fixed"]),
)


@pytest.fixture
def open_clip() -> Any:
    return pytest.importorskip("open_clip", reason="needs the extra open_clip")


def squares(size: int) -> list[Image.Image]:
    """Three images that no preprocessing has to resize."""
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(3)]


def check_round_trip(open_clip: Any, model: MiniCLIP, folder: Path) -> None:
    """Images and texts through open_clip's own preprocessing and tokenizer give our features and logits."""
    images = squares(model.preprocess.image_size)
    done = export_open_clip(model, folder, images=images, texts=[*TEXTS, "a woman\u2019s  hat &amp; coat"])
    assert max(done.image_difference, done.text_difference) < 1e-6

    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    theirs.eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    with torch.inference_mode():
        image_features, text_features, scale, *bias = theirs(
            torch.stack(list(map(preprocess, images))), tokens
        )
    torch.testing.assert_close(image_features, model.encode_image(images), atol=1e-5, rtol=0)
    torch.testing.assert_close(text_features, model.encode_text(TEXTS), atol=1e-5, rtol=0)
    assert float(scale) == pytest.approx(model.logit_scale)
    learned = getattr(model.model.loss, "logit_bias", None)
    assert list(map(float, bias)) == ([] if learned is None else [float(learned.detach())])


@pytest.mark.filterwarnings("ignore")  # inside open_clip and timm
@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: kinds[-1])
def test_open_clip_gives_our_features(open_clip: Any, kinds: list[str], tmp_path: Path) -> None:
    check_round_trip(open_clip, MiniCLIP(bundle_of(*kinds)), tmp_path / "exported")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "settings"), HF_KINDS)
def test_hugging_face_text_towers_come_along(
    open_clip: Any, kind: str, settings: list[str], tmp_path: Path
) -> None:
    text_model = hugging_face_folder(tmp_path / "text", kind)
    model = MiniCLIP(bundle_of("encoder/text=hf", f"encoder.text.name={text_model}", *settings))
    check_round_trip(open_clip, model, tmp_path / "exported")


@pytest.mark.filterwarnings("ignore")
def test_what_the_towers_weights_saw_becomes_the_preprocessing(open_clip: Any, tmp_path: Path) -> None:
    bundle = bundle_of(*TRANSFORMER, "projection=none", "data.eval_crop=center")
    bundle.model.image_encoder.normalize_to((0.5, 0.4, 0.3), (0.5, 0.6, 0.7))  # type: ignore[operator]
    check_round_trip(open_clip, MiniCLIP(bundle), tmp_path)

    preprocessing = json.loads((tmp_path / "open_clip_config.json").read_text())["preprocess_cfg"]
    assert preprocessing["mean"] == [0.5, 0.4, 0.3] and preprocessing["std"] == [0.5, 0.6, 0.7]
    assert preprocessing["resize_mode"] == "shortest" and preprocessing["size"] == 32


@pytest.mark.filterwarnings("ignore")
def test_other_features_are_not_kept(
    open_clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MiniCLIP(bundle_of(*TRANSFORMER, "projection=none"))
    monkeypatch.setattr("miniclip.deploy.export_folder.LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(UserError, match="differ from ours"):
        export_open_clip(model, tmp_path / "new", images=squares(32), texts=TEXTS)
    assert not (tmp_path / "new").exists()

    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="differ from ours"):
        export_open_clip(model, tmp_path, images=squares(32), texts=TEXTS)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_missing_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    model = MiniCLIP(bundle_of(*TRANSFORMER, "projection=none"))
    with pytest.raises(UserError, match=r'pip install -e "\.\[open_clip\]"'):
        export_open_clip(model, tmp_path / "exported", images=squares(32), texts=TEXTS)


@pytest.mark.filterwarnings("ignore")
def test_the_command_exports_a_saved_model(
    open_clip: Any, tmp_path: Path, miniclip: Callable[..., Answer]
) -> None:
    MiniCLIP(bundle_of(*TRANSFORMER, "projection=none")).save_pretrained(tmp_path / "saved")
    done = miniclip("export", tmp_path / "saved", "--format", "open_clip", "-o", tmp_path / "exported")
    assert done.returncode == 0, done.stderr
    assert "The features of open_clip differ from ours by at most" in done.stdout
    assert f"local-dir:{tmp_path / 'exported'}" in done.stdout


def test_the_command_names_what_stands_in_the_way(miniclip: Callable[..., Answer], tmp_path: Path) -> None:
    saved = MiniCLIP(bundle_of()).save_pretrained(tmp_path / "saved")
    done = miniclip("export", saved, "--format", "open_clip", "-o", tmp_path / "out")
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
    assert "--format open_clip cannot express projection=mlp (" in done.stderr
    assert "Use --format onnx, or safetensors" in done.stderr and not (tmp_path / "out").exists()
