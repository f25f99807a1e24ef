"""A loss with a parameter of its own, through the command line: trained, kept, restored and resumed."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from miniclip.config.compose import compose
from miniclip.config.instantiate import make
from miniclip.config.restore import restore
from miniclip.losses import Loss, SigLipLoss
from miniclip.runs import RunDirectory
from miniclip.training.checkpoint import load_checkpoint
from tests.conftest import TINY
from tests.in_process import Answer, miniclip_in_process, train_in_process

SMALL = (*TINY, "precision=fp32")
SIGLIP = ("loss=siglip", "temperature=learned", "temperature.initial_scale=10")
LEARNED: dict[str, tuple[str, ...]] = {"logit_bias": SIGLIP}
"""What losses learn: the parameter's name, and the settings that choose its loss."""

Runs = Callable[[str], RunDirectory]


def train(folder: Path, *settings: str) -> Answer:
    done = train_in_process(*SMALL, *settings, f"hydra.run.dir={folder}", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A run of two epochs for each name in `LEARNED`, trained when it is first asked for."""

    @cache
    def trained(name: str) -> RunDirectory:
        folder = tmp_path_factory.mktemp(name) / "run"
        train(folder, *LEARNED[name], "trainer.checkpoint_every_epochs=1")
        return RunDirectory(folder)

    return trained


@pytest.fixture(scope="module")
def run(runs: Runs) -> RunDirectory:
    """That with SigLIP's loss."""
    return runs("logit_bias")


@pytest.mark.parametrize("name", LEARNED)
def test_the_parameter_is_trained_and_restored_with_the_weights(runs: Runs, name: str) -> None:
    run = runs(name)
    learned = load_checkpoint(run.best_checkpoint)["model"][f"loss.{name}"]
    first = make(compose(*SMALL, *LEARNED[name]), "loss").get_parameter(name)
    assert learned.shape == first.shape and not torch.equal(learned, first)

    restored = restore(run.path)
    loss = restored.loss()
    assert isinstance(loss, Loss) and loss is restored.model.loss
    assert torch.equal(loss.get_parameter(name), learned)


def test_records_know_the_chance_of_this_loss(run: RunDirectory) -> None:
    records = [json.loads(line) for line in run.metrics.open()]
    validated = [record for record in records if "val/loss" in record]
    chance = SigLipLoss(initial_bias=-10.0).chance(8)
    assert len(validated) == 2
    for record in validated:
        assert record["val/loss_over_chance"] == pytest.approx(record["val/loss"] / chance)


@pytest.mark.parametrize("name", LEARNED)
def test_a_resumed_run_learns_the_same(runs: Runs, name: str, tmp_path: Path) -> None:
    run = runs(name)
    past = tmp_path / "past"
    shutil.copytree(run.path, past)
    first = past / "checkpoints" / "epoch_0001.pt"
    resume = (f"trainer.resume={first}", "trainer.checkpoint_every_epochs=1")
    train(tmp_path / "resumed", *LEARNED[name], *resume)

    whole = load_checkpoint(run.last_checkpoint)["model"]
    resumed = load_checkpoint(tmp_path / "resumed" / "checkpoints" / "last.pt")["model"]
    learned = f"loss.{name}"
    assert not torch.equal(whole[learned], load_checkpoint(first)["model"][learned])
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


def test_another_loss_does_not_go_on_with_it(run: RunDirectory, tmp_path: Path) -> None:
    resume = f"trainer.resume={run.last_checkpoint}"
    done = train_in_process(*SMALL, *SIGLIP, "loss=clip", resume, f"hydra.run.dir={tmp_path}", cwd=tmp_path)
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
