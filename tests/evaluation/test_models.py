"""Models under test: raw strings and images in, features out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from miniclip.config.restore import restore
from miniclip.runs import RunDirectory
from tests.conftest import Answer


def test_open_clip_is_measured_by_the_same_protocol(
    class_run: RunDirectory, tmp_path: Path, miniclip: Callable[..., Answer]
) -> None:
    open_clip = pytest.importorskip("open_clip", reason="needs the extra bench")
    model = open_clip.create_model("RN50")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    run = shutil.copytree(class_run.path, tmp_path / "run")
    done = miniclip("evaluate", run, f"open_clip:RN50:{tmp_path / 'weights.pt'}", "retrieval", "zero_shot")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("open_clip RN50")
    folder = tmp_path / "outputs" / "open_clip" / "RN50" / "weights" / "evaluation"
    theirs = json.loads((folder / "retrieval.json").read_text())
    ours = json.loads((run / "evaluation" / "retrieval.json").read_text())
    assert theirs["protocol"] == ours["protocol"]


def test_another_data_set_is_seen_as_the_run_saw_its_own(class_run: RunDirectory, tmp_path: Path) -> None:
    checkpoint = torch.load(class_run.best_checkpoint, weights_only=True)
    checkpoint["config"]["data"]["eval_crop"] = "center"
    torch.save(checkpoint, tmp_path / "centre.pt")
    assert restore(tmp_path / "centre.pt", "data=openmoji").config.data.eval_crop == "center"
    asked = restore(tmp_path / "centre.pt", "data=openmoji", "data.eval_crop=squash")
    assert asked.config.data.eval_crop == "squash"
