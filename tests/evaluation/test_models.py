"""Models under test: raw strings and images in, features out."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from miniclip.config.restore import restore
from miniclip.evaluation import OpenClipModel
from miniclip.runs import RunDirectory
from tests.conftest import Answer, parts_of
from tests.data.conftest import lying
from tests.evaluation.conftest import Measured


def test_open_clip_is_measured_by_the_same_protocol(
    class_run: RunDirectory, tmp_path: Path, miniclip: Callable[..., Answer]
) -> None:
    open_clip = pytest.importorskip("open_clip", reason="needs the extra open_clip")
    model = open_clip.create_model("ViT-S-32-alt")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    run = shutil.copytree(class_run.path, tmp_path / "run")
    done = miniclip(
        "evaluate", run, f"open_clip:ViT-S-32-alt:{tmp_path / 'weights.pt'}", "retrieval", "zero_shot"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("open_clip ViT-S-32-alt")
    folder = tmp_path / "outputs" / "open_clip" / "ViT-S-32-alt" / "weights" / "evaluation"
    ours = json.loads((run / "evaluation" / "retrieval.json").read_text())
    measured = json.loads((folder / ours["data_fingerprint"] / "retrieval.json").read_text())
    assert measured["protocol"] == ours["protocol"]


def test_an_image_of_pillow_is_upright_for_open_clip_too(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip", reason="needs the extra open_clip")
    torch.save(open_clip.create_model("ViT-S-32-alt").state_dict(), tmp_path / "weights.pt")
    model = OpenClipModel(f"ViT-S-32-alt:{tmp_path / 'weights.pt'}", torch.device("cpu"))

    photo = Image.radial_gradient("L").crop((0, 0, 200, 100)).convert("RGB")
    expected = model.preprocess(torch.from_numpy(np.array(photo)).permute(2, 0, 1))
    for image in (photo, Image.open(io.BytesIO(lying(photo)))):
        assert torch.equal(model.preprocess(image), expected)
    white, clear = Image.new("RGB", (64, 64), "white"), Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    assert torch.equal(model.preprocess(clear), model.preprocess(white))


def test_another_data_set_is_seen_as_the_run_saw_its_own(class_run: RunDirectory, tmp_path: Path) -> None:
    checkpoint = parts_of(class_run.best_checkpoint)
    checkpoint["preprocessing"]["eval_crop"] = "center"
    torch.save(checkpoint, tmp_path / "centre.pt")
    assert restore(tmp_path / "centre.pt", "data=openmoji").config.data.eval_crop == "center"
    asked = restore(tmp_path / "centre.pt", "data=openmoji", "data.eval_crop=squash")
    assert asked.config.data.eval_crop == "squash"


def test_raw_texts_go_in_and_features_come_out(measured: Measured) -> None:
    texts = ["a blue square", "red", "green square and more than that"]  # of several lengths
    features = measured.model.encode_text(texts)
    assert features.shape == (3, 32) and features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    token_ids, attention_mask = measured.restored.tokenizer.encode(texts)
    with torch.no_grad():
        direct = measured.restored.model.encode_text(token_ids, attention_mask)
    torch.testing.assert_close(features, direct)
    torch.testing.assert_close(measured.model.encode_text(texts[::-1]), features.flip(0))


def test_images_one_by_one_are_those_of_the_data_set(measured: Measured) -> None:
    images = [measured.val.split.images[row] for row in range(5)]
    batch = torch.stack([measured.model.preprocess(image) for image in images])
    features = measured.model.encode_image(batch)
    torch.testing.assert_close(features, measured.model.encode_dataset(measured.val)[:5])


def test_the_scale_is_that_of_the_checkpoints_temperature(measured: Measured) -> None:
    model = measured.restored.model
    features = measured.model.encode_text(["red", "blue"])
    assert measured.model.logit_scale == float(model.from_features(features, features).logit_scale.detach())
    assert not model.training


def test_a_saved_model_measures_like_its_run(
    class_run: RunDirectory, tmp_path: Path, miniclip: Callable[..., Answer]
) -> None:
    run, saved = shutil.copytree(class_run.path, tmp_path / "run"), tmp_path / "saved"
    miniclip("export", run, "-o", saved)
    done = miniclip("evaluate", saved, run, "retrieval")  # the run gives its data to what has none
    assert done.returncode == 0, done.stderr
    ours, theirs = (line.split() for line in done.stdout.splitlines()[-2:])
    assert (ours[0], theirs[0]) == (str(run), str(saved)) and ours[1:] == theirs[1:]
    (written,) = tmp_path.glob("saved_evaluation/*/retrieval.json")
    assert json.loads(written.read_text())["protocol"].endswith("; float32")


def test_a_saved_model_alone_takes_the_data_of_the_settings(
    class_run: RunDirectory, tmp_path: Path, miniclip: Callable[..., Answer]
) -> None:
    miniclip("export", class_run.path, "-o", tmp_path / "saved")
    done = miniclip("evaluate", tmp_path / "saved", "data=openmoji", "data.limit=40", "retrieval")
    assert done.returncode == 0, done.stderr
    assert "(val: 40 images, 48 captions; float32;" in done.stdout
