"""Models as folders of transformers, which reads them as its users do."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize
from transformers import AutoModel, AutoProcessor

from miniclip import MiniCLIP
from miniclip.deploy.transformers_export import export_transformers
from miniclip.errors import UserError
from tests.bundles import CAPTIONS, bundle_of, hugging_face_folder
from tests.deploy.test_open_clip import TEXTS, TRANSFORMER, squares
from tests.in_process import Answer

KINDS = (
    [*TRANSFORMER, "projection=linear", "temperature=learned"],
    [*TRANSFORMER, "projection=none", "encoder/image=resnet18", "tokenizer=wordpiece"],
    [*TRANSFORMER, "projection=none", "encoder.image.architecture=resnet14t", "temperature=fixed"],
    [*TRANSFORMER, "projection=linear", "encoder.image.architecture=test_vit", "data.eval_crop=center"],
    [*TRANSFORMER, "projection=none", "encoder.image.architecture=test_convnext", "tokenizer=unigram"],
    pytest.param([*TRANSFORMER, "projection=none", "encoder/image=vit_b_32"], marks=pytest.mark.long),
)


def check_round_trip(model: MiniCLIP, folder: Path) -> None:
    """Images and texts through transformers' own processor give our features and logits."""
    images = squares(model.preprocess.image_size)
    done = export_transformers(model, folder, images=images, texts=TEXTS)
    assert max(done.image_difference, done.text_difference) < 2e-6

    theirs = AutoModel.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    for texts in (TEXTS, TEXTS[:1]):  # with padding and without
        inputs = processor(text=texts, images=images, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            output = theirs(**inputs)
            text_features = theirs.get_text_features(inputs["input_ids"], inputs["attention_mask"])
            image_features = theirs.get_image_features(inputs["pixel_values"])

        ours = model.similarity(images, texts) * model.logit_scale
        torch.testing.assert_close(output.logits_per_image, ours, atol=1e-3, rtol=1e-5)
        for features, expected in (
            (image_features, model.encode_image(images)),
            (text_features, model.encode_text(texts)),
        ):
            torch.testing.assert_close(normalize(features.pooler_output), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kinds", KINDS)
def test_transformers_gives_our_features(kinds: list[str], tmp_path: Path) -> None:
    check_round_trip(MiniCLIP(bundle_of(*kinds)), tmp_path / "exported")


@pytest.mark.parametrize(("kind", "projection"), [("bert", "linear"), ("roberta", "none")])
def test_hugging_face_text_towers_come_along(kind: str, projection: str, tmp_path: Path) -> None:
    name = hugging_face_folder(tmp_path / "text", kind)
    settings = (f"encoder.text.name={name}", "encoder.text.pooling=cls", f"projection={projection}")
    check_round_trip(MiniCLIP(bundle_of("encoder/text=hf", *settings)), tmp_path / "exported")


def test_what_the_towers_weights_saw_becomes_the_preprocessing(tmp_path: Path) -> None:
    bundle = bundle_of(*TRANSFORMER, "projection=none")
    bundle.model.image_encoder.normalize_to((0.5, 0.4, 0.3), (0.5, 0.6, 0.7))  # type: ignore[operator]
    check_round_trip(MiniCLIP(bundle), tmp_path)
    image_processor = AutoProcessor.from_pretrained(tmp_path).image_processor
    assert list(image_processor.image_mean) == [0.5, 0.4, 0.3]
    assert list(image_processor.image_std) == [0.5, 0.6, 0.7]


def test_other_features_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MiniCLIP(bundle_of(*TRANSFORMER, "projection=none"))
    monkeypatch.setattr("miniclip.deploy.export_folder.LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(UserError, match="differ from ours"):
        export_transformers(model, tmp_path / "new", images=squares(32), texts=TEXTS)
    assert not (tmp_path / "new").exists()


def test_a_saved_model_is_not_written_over(tmp_path: Path) -> None:
    model = MiniCLIP(bundle_of(*TRANSFORMER, "projection=none"))
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds a model in the format safetensors"):
        export_transformers(model, tmp_path, images=squares(32), texts=TEXTS)
    assert MiniCLIP.from_pretrained(tmp_path).fingerprint == model.fingerprint


def test_the_command_exports_a_saved_model(tmp_path: Path, miniclip: Callable[..., Answer]) -> None:
    model = MiniCLIP(bundle_of(*TRANSFORMER, "projection=none"))
    model.save_pretrained(tmp_path / "saved")
    done = miniclip("export", tmp_path / "saved", "--format", "transformers", "-o", tmp_path / "exported")
    assert done.returncode == 0, done.stderr
    assert "The features of transformers differ from ours by at most" in done.stdout
    assert not done.stderr

    processor = AutoProcessor.from_pretrained(tmp_path / "exported")
    inputs = processor(text=list(CAPTIONS), padding=True, return_tensors="pt")
    theirs = AutoModel.from_pretrained(tmp_path / "exported")
    with torch.inference_mode():
        features = normalize(theirs.get_text_features(**inputs).pooler_output)
    torch.testing.assert_close(features, model.encode_text(CAPTIONS), atol=1e-5, rtol=0)
