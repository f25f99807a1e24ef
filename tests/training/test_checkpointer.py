"""The parts of a run in a checkpoint: what they take over, what they refuse, and which files are kept."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from miniclip.config.build import build
from miniclip.config.compose import compose
from miniclip.errors import UserError
from miniclip.optim import SAM, as_pass_optimizer
from miniclip.runs import RunDirectory
from miniclip.training.checkpoint import load_checkpoint, save_checkpoint
from miniclip.training.checkpointer import Checkpointer, SaveSettings
from miniclip.training.progress import Progress, Stopwatch
from miniclip.training.stateful import DoesNotFit, OptimizerState
from tests.conftest import TINY, fit

SETTINGS = SaveSettings(
    every_epochs=2,
    every_steps=None,
    every_minutes=None,
    in_background=False,
    keep_last=1,
    keep_best=1,
    on_error="raise",
)


def checkpointer(folder: Path, *overrides: str) -> Checkpointer:
    run = RunDirectory(folder)
    _, setup, _ = build(compose(*TINY, *overrides), run)
    return Checkpointer(setup, run, Progress(), SETTINGS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Checkpointer:
    """Of a run that has come to step 5 without training."""
    made = checkpointer(tmp_path_factory.mktemp("saved"))
    made.progress.step, made.progress.epoch = 5, 1
    with torch.no_grad():
        next(made.setup.model.parameters()).add_(1)
    made.save()
    return made


def test_every_part_is_saved_and_loaded(saved: Checkpointer, tmp_path: Path) -> None:
    content = load_checkpoint(saved.run.last_checkpoint)
    assert content.keys() >= saved.parts.keys() | {"config", "data"}

    torch.manual_seed(1)
    other = checkpointer(tmp_path)
    other.resume(saved.run.last_checkpoint, must_be_same=True)
    assert other.progress == saved.progress
    for name, tensor in saved.setup.model.state_dict().items():
        assert torch.equal(other.setup.model.state_dict()[name], tensor), name
    assert torch.equal(torch.get_rng_state(), content["random_state"]["torch"])


def test_a_part_that_does_not_fit_names_the_checkpoint(saved: Checkpointer, tmp_path: Path) -> None:
    content = load_checkpoint(saved.run.last_checkpoint)
    content["optimizer"]["param_groups"].pop()
    broken = tmp_path / "broken.pt"
    save_checkpoint(broken, content)
    with pytest.raises(UserError, match=r"The checkpoint .*broken\.pt has a state of the optimizer that"):
        checkpointer(tmp_path / "run").resume(broken, must_be_same=True)


def test_the_same_settings_can_be_asked_for(saved: Checkpointer, tmp_path: Path) -> None:
    other = checkpointer(tmp_path, "optimizer.rho=0.2")
    with pytest.raises(UserError, match=r"holds a run of other settings.*optimizer\.rho=0\.2"):
        other.resume(saved.run.last_checkpoint, must_be_same=True)
    other.resume(saved.run.last_checkpoint, must_be_same=False)


def test_best_and_epochs_are_kept_under_names_of_their_own(saved: Checkpointer, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    progress = Progress()
    keeper = Checkpointer(saved.setup, run, progress, SETTINGS)

    def names() -> set[str]:
        return {path.name for path in run.checkpoints.iterdir()}

    for step, epoch, position, is_best, expected in (
        (1, 0, 8, True, {"last.pt", "best.pt"}),
        (2, 1, 0, False, {"last.pt", "best.pt", "step_00000001.pt"}),
        (3, 2, 8, False, {"last.pt", "best.pt", "step_00000002.pt"}),
        (4, 2, 0, False, {"last.pt", "best.pt", "step_00000003.pt", "epoch_0002.pt"}),
    ):
        progress.step, progress.epoch, progress.position = step, epoch, position
        keeper.save()
        assert keeper.keep(is_best=is_best)
        assert names() == expected
    assert load_checkpoint(run.best_checkpoint)["progress"]["position"] == 8


def test_short_epochs_are_not_all_saved(saved: Checkpointer, tmp_path: Path) -> None:
    progress = Progress(epoch=1)
    keeper = Checkpointer(saved.setup, RunDirectory(tmp_path), progress, SETTINGS)
    assert keeper.is_due_after_epoch  # nothing is saved yet

    keeper.save()
    assert not keeper.is_due_after_epoch
    keeper._since_save = Stopwatch(before=3600)
    assert keeper.is_due_after_epoch

    keeper.save()
    progress.epoch = SETTINGS.every_epochs  # which has a name of its own
    assert keeper.is_due_after_epoch


def test_a_run_of_short_epochs_saves_the_first_and_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    monkeypatch.setattr("miniclip.training.checkpointer.LARGEST_FRACTION_OF_TIME", 0)
    monkeypatch.setattr(Checkpointer, "_write", spied(Checkpointer._write, saved))
    fit(tmp_path, *TINY, "trainer.budget.epochs=4", "trainer.validate_every_epochs=9")
    assert len(saved) == 2 and saved[1] == 4 * saved[0]


def spied(write: Any, steps: list[int]) -> Any:
    """The same, which notes the steps that are written."""

    def spy(self: Checkpointer, content: dict[str, Any], step: int) -> None:
        steps.append(step)
        write(self, content, step)

    return spy


@pytest.mark.parametrize("kind", ["sam", "plain"])
def test_an_optimizer_keeps_its_settings_and_takes_the_moments(kind: str) -> None:
    def make(lr: float) -> Any:
        parameter = nn.Parameter(torch.ones(2))
        adamw = partial(torch.optim.AdamW, lr=lr)
        plain = as_pass_optimizer(adamw([parameter]))
        return parameter, SAM([parameter], adamw, rho=0.1) if kind == "sam" else plain

    parameter, first = make(0.1)
    first.backward(lambda pass_number: _backward(parameter))
    first.base_optimizer.step()
    first.param_groups[0]["initial_lr"] = 0.1

    other, second = make(0.5)
    OptimizerState(second).load_state_dict(OptimizerState(first).state_dict())
    assert second.param_groups[0]["lr"] == 0.5 and "initial_lr" not in second.param_groups[0]
    moments = second.base_optimizer.state[other]["exp_avg"]
    assert torch.equal(moments, first.base_optimizer.state[parameter]["exp_avg"])

    state = first.state_dict()
    state["param_groups"] = []
    with pytest.raises(DoesNotFit, match="same optimizer, model and lr_factor"):
        OptimizerState(second).load_state_dict(state)


def _backward(w: nn.Parameter) -> torch.Tensor:
    loss = w.square().sum()
    loss.backward()
    return loss.detach()
