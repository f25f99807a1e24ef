"""A loss with a parameter of its own, through the command line: trained, kept, restored and resumed."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from miniclip.config.restore import restore
from miniclip.losses import SigLipLoss
from miniclip.runs import RunDirectory
from miniclip.training.checkpoint import load_checkpoint
from tests.conftest import TINY
from tests.in_process import Answer, miniclip_in_process, train_in_process

SIGLIP = (*TINY, "loss=siglip", "temperature=learned", "temperature.initial_scale=10", "precision=fp32")


def train(folder: Path, *settings: str) -> Answer:
    done = train_in_process(*SIGLIP, *settings, f"hydra.run.dir={folder}", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of two epochs."""
    folder = tmp_path_factory.mktemp("siglip") / "run"
    train(folder, "trainer.checkpoint_every_epochs=1")
    return RunDirectory(folder)


def test_the_bias_is_trained_and_restored_with_the_weights(run: RunDirectory) -> None:
    bias = load_checkpoint(run.best_checkpoint)["model"]["loss.logit_bias"]
    assert bias.shape == () and bias != -10

    restored = restore(run.path)
    loss = restored.loss()
    assert isinstance(loss, SigLipLoss) and loss is restored.model.loss
    assert torch.equal(loss.logit_bias, bias)


def test_records_know_the_chance_of_this_loss(run: RunDirectory) -> None:
    records = [json.loads(line) for line in run.metrics.open()]
    validated = [record for record in records if "val/loss" in record]
    chance = SigLipLoss(initial_bias=-10.0).chance(8)
    assert len(validated) == 2
    for record in validated:
        assert record["val/loss_over_chance"] == pytest.approx(record["val/loss"] / chance)


def test_a_resumed_run_learns_the_same_bias(run: RunDirectory, tmp_path: Path) -> None:
    past = tmp_path / "past"
    shutil.copytree(run.path, past)
    first = past / "checkpoints" / "epoch_0001.pt"
    train(tmp_path / "resumed", f"trainer.resume={first}", "trainer.checkpoint_every_epochs=1")

    whole = load_checkpoint(run.last_checkpoint)["model"]
    resumed = load_checkpoint(tmp_path / "resumed" / "checkpoints" / "last.pt")["model"]
    assert whole["loss.logit_bias"] != load_checkpoint(first)["model"]["loss.logit_bias"]
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


def test_another_loss_does_not_go_on_with_it(run: RunDirectory, tmp_path: Path) -> None:
    resume = f"trainer.resume={run.last_checkpoint}"
    done = train_in_process(*SIGLIP, "loss=clip", resume, f"hydra.run.dir={tmp_path}", cwd=tmp_path)
    assert done.returncode == 1
    assert "the first is loss.logit_bias" in done.stderr
    assert "loss._target_=miniclip.losses.SigLipLoss (here miniclip.losses.ClipLoss)" in done.stderr


def test_its_run_is_evaluated_also_for_sharpness(run: RunDirectory, tmp_path: Path) -> None:
    own = tmp_path / "run"
    shutil.copytree(run.path, own)
    small = ["eval.tasks.sharpness.num_batches=2", "eval.tasks.sharpness.batch_size=8"]
    done = miniclip_in_process("evaluate", own, "retrieval", "sharpness", *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    numbers = json.loads((own / "evaluation" / "sharpness.json").read_text())
    along_gradient = numbers["landscape"]["gradient"]
    assert along_gradient[len(along_gradient) // 2] == pytest.approx(numbers["loss"], rel=1e-4)

    retrieval = json.loads((own / "evaluation" / "retrieval.json").read_text())
    best = json.loads((own / "summary.json").read_text())["best"]
    assert retrieval["metrics"]["i2t_r1"] == best["val/i2t_r1"]
