"""CLIP_benchmark on our runs: the features and the preprocessing are ours."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from miniclip.config.restore import restore
from miniclip.integrations.clip_benchmark import load
from miniclip.pretrained import MiniCLIP
from miniclip.runs import RunDirectory
from tests.conftest import ROOT, miniclip_command


def test_clip_benchmark_sees_the_features_that_we_see(class_run: RunDirectory) -> None:
    model, transform, tokenizer = load(str(class_run.path), "best", "", "cpu")
    restored = restore(class_run.path)
    _, val_set = restored.datasets()
    subject = MiniCLIP(restored.named("run"))
    captions = ["a blue square", "red", "green square and more than that"]  # of several lengths
    torch.testing.assert_close(model.encode_text(tokenizer(captions)), subject.encode_text(captions))
    pixels = [val_set.split.images[row] for row in range(5)]
    images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    theirs = model.encode_image(torch.stack([transform(image) for image in images]))
    torch.testing.assert_close(theirs, subject.encode_dataset(val_set)[:5])


def test_an_image_is_preprocessed_for_clip_benchmark_as_for_us(class_run: RunDirectory) -> None:
    _, transform, _ = load(str(class_run.path), "best", "", "cpu")
    _, val_set = restore(class_run.path).datasets()
    image = Image.fromarray(val_set.split.images[3].permute(1, 2, 0).numpy())
    assert torch.equal(transform(image), val_set[3][0])


def test_clip_benchmarks_own_command_runs_on_a_run(
    class_run: RunDirectory, real_data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("clip_benchmark", reason="needs the extra bench")
    root = real_data / "flickr8k_1k"
    lines = (root / "captions.txt").read_text().splitlines()[: 1 + 5 * 30]
    (tmp_path / "captions.txt").write_text("\n".join(lines) + "\n")
    command = [
        *(
            sys.executable,
            "-m",
            "miniclip.integrations.clip_benchmark",
            "eval",
            "--model",
            str(class_run.path),
        ),
        *("--pretrained", "best", "--dataset", "flickr8k", "--dataset_root", str(root / "Images")),
        *("--annotation_file", str(tmp_path / "captions.txt"), "--task", "zeroshot_retrieval"),
        *("--recall_k", "10", "--no_amp", "--num_workers", "0", "--output", str(tmp_path / "out.json")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    theirs = json.loads((tmp_path / "out.json").read_text())["metrics"]
    for side in ("train", "val"):
        (tmp_path / f"{side}.csv").write_text("\n".join(lines) + "\n")
    own = [f"data.{side}_{what}" for side in ("train", "val") for what in ("csv", "root")]
    places = [tmp_path / "train.csv", root / "Images", tmp_path / "val.csv", root / "Images"]
    settings = [f"{key}={value}" for key, value in zip(own, places, strict=True)]
    ours = miniclip_command(tmp_path, "evaluate", class_run.path, "retrieval", "data=csv", *settings)
    assert ours.returncode == 0, ours.stderr
    (file,) = (
        path
        for path in (class_run.path / "evaluation").glob("*/retrieval.json")
        if "30 images, 150 captions" in path.read_text()
    )
    recalls = json.loads(file.read_text())["metrics"]
    # photographs are decoded at full size there, and at the size they need here
    assert 100 * theirs["text_retrieval_recall@10"] == pytest.approx(recalls["i2t_r10"], abs=10)
    assert 100 * theirs["image_retrieval_recall@10"] == pytest.approx(recalls["t2i_r10"], abs=10)
