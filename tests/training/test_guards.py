"""A bad batch leaves no trace, and weights that are not finite are never kept."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from miniclip.runs import RunDirectory
from miniclip.training import TrainingStep
from miniclip.training.checkpoint import load_checkpoint
from miniclip.training.guards import BufferGuard, Diverged, all_finite, spoil_unless
from tests.conftest import fit_config
from tests.training.test_resuming import changed, pictures, records_of, small  # noqa: F401

BAD = {"NaN pixel": math.nan, "infinite pixel": math.inf, "statistics overflow": 1e30}


def spoil_batch(monkeypatch: pytest.MonkeyPatch, *, step: int, value: float) -> None:
    """Give one pixel of the batch of a step another value, as a broken file or a float16 overflow would."""
    original = TrainingStep.__call__
    calls = 0

    def spoiled(self: Any, micro_batches: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == step:
            images = micro_batches[0].images.clone()
            images[0, 0, 0, 0] = value
            micro_batches = [micro_batches[0]._replace(images=images), *micro_batches[1:]]
        return original(self, micro_batches)

    monkeypatch.setattr(TrainingStep, "__call__", spoiled)


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
@pytest.mark.parametrize("optimizer", ["sam", "adamw", "msam", "sgd"])
def test_a_bad_batch_leaves_no_trace(
    optimizer: str,
    value: float,
    small: DictConfig,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One batch, trained on between two good ones: the weights and statistics are those without it."""
    from miniclip.config.compose import compose
    from tests.training.test_resuming import SMALL

    choice = ["optimizer=sam", "optimizer/base=sgd"] if optimizer == "sgd" else [f"optimizer={optimizer}"]
    cfg = compose(*SMALL, f"data.root={small.data.root}", *choice, "trainer.budget.steps=2")
    before: dict[str, torch.Tensor] = {}
    original = TrainingStep.__call__

    def remembering(self: Any, micro_batches: Any) -> Any:
        if not before:  # the first step is good, the second is spoiled
            result = original(self, micro_batches)
            before.update({k: v.clone() for k, v in self.model.state_dict().items()})
            return result
        return original(self, micro_batches)

    monkeypatch.setattr(TrainingStep, "__call__", remembering)
    spoil_batch(monkeypatch, step=2, value=value)
    run = fit_config(tmp_path, cfg)
    after = load_checkpoint(run.last_checkpoint)["model"]
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    validation = records_of(run)[-1]
    assert validation["val/loss"] is not None and validation["val/rsum"] > 0
    assert json.loads(run.summary.read_text())["skipped_steps"] == 1


def test_weights_that_are_not_finite_are_neither_last_nor_best(
    small: DictConfig,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = TrainingStep.__call__
    calls = 0

    def breaking(self: Any, micro_batches: Any) -> Any:
        nonlocal calls
        calls += 1
        result = original(self, micro_batches)
        if calls == 5:
            next(self.model.parameters()).data[0] = math.inf
        return result

    monkeypatch.setattr(TrainingStep, "__call__", breaking)
    with pytest.raises(Diverged, match=r"step 6: the weights are not finite.*sound checkpoint is .*last"):
        fit_config(tmp_path, small)
    for name in ("last.pt", "best.pt"):
        checkpoint = load_checkpoint(tmp_path / "checkpoints" / name)
        assert checkpoint["progress"]["step"] == 3
        assert all_finite(checkpoint["model"].values())


def test_gradients_that_stay_not_finite_end_the_run_with_sound_weights(
    small: DictConfig,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = TrainingStep.__call__

    def spoiled(self: Any, micro_batches: Any) -> Any:
        images = micro_batches[0].images.clone()
        images[0] = math.nan
        return original(self, [micro_batches[0]._replace(images=images)])

    monkeypatch.setattr(TrainingStep, "__call__", spoiled)
    with pytest.raises(Diverged, match=r"trainer\.max_skipped_steps=2 steps in a row"):
        fit_config(tmp_path, changed(small, trainer__max_skipped_steps=2))
    checkpoint = load_checkpoint(RunDirectory(tmp_path).last_checkpoint)
    assert all_finite(checkpoint["model"].values())


@pytest.mark.parametrize("is_on_host", [True, False])
def test_buffers_come_back_exactly(is_on_host: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the whole numbers among them, and without asking the device."""
    monkeypatch.setattr("miniclip.training.guards.is_on_host", lambda tensor: is_on_host)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2), nn.BatchNorm1d(2))
    guard = BufferGuard(model)
    guard.save()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(torch.full((4, 3), math.nan))
    assert not guard.are_finite()
    guard.restore_unless(torch.tensor(False))
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name

    model(torch.randn(4, 3))
    guard.restore_unless(torch.tensor(True))
    assert model[0].num_batches_tracked == 1 and guard.are_finite()


def test_one_gradient_is_spoiled_where_asked() -> None:
    gradients = [None, torch.ones(2), torch.ones(2)]
    spoil_unless(torch.tensor(True), gradients)
    assert all_finite(g for g in gradients if g is not None)
    spoil_unless(torch.tensor(False), gradients)
    assert not all_finite([gradients[1]]) and all_finite([gradients[2]])  # type: ignore[list-item]


def test_finite_is_every_element_of_every_floating_tensor() -> None:
    whole = [torch.ones(3), torch.tensor([7]), torch.empty(0)]
    assert all_finite(whole)
    for value in (math.nan, math.inf, -math.inf):
        assert not all_finite([*whole, torch.tensor([1.0, value])])
    assert all_finite([])
