"""A bad batch leaves no trace, and weights that are not finite are never kept."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from miniclip.data.loader import Loader
from miniclip.runs import RunDirectory
from miniclip.training import TrainingStep
from miniclip.training.checkpoint import load_checkpoint
from miniclip.training.guards import BufferGuard, Diverged, all_finite
from tests.conftest import fit_config
from tests.training.test_resuming import changed, records_of, small  # noqa: F401

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
    with pytest.raises(Diverged, match=r"more steps in a row than trainer\.max_skipped_steps=2"):
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


def test_finite_is_every_element_of_every_floating_tensor() -> None:
    whole = [torch.ones(3), torch.tensor([7]), torch.empty(0)]
    assert all_finite(whole)
    for value in (math.nan, math.inf, -math.inf):
        assert not all_finite([*whole, torch.tensor([1.0, value])])
    assert all_finite([])


def skipped_batches_of(run: RunDirectory) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.skipped_batches.read_text().splitlines()]


def test_the_images_of_a_skipped_step_are_named(
    small: DictConfig,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One image turns into NaN pixels whenever it is read: each step that sees it tells of it."""
    original = Loader._read
    culprit = 3
    bad_ids = set()

    def reading(self: Any, keys: Any) -> Any:
        batch = original(self, keys)
        if self.dataset.split.name == "train":
            bad_ids.add(self.dataset.split.ids[culprit])
            batch.images[batch.image_ids == culprit] = math.nan
        return batch

    monkeypatch.setattr(Loader, "_read", reading)
    run = fit_config(tmp_path, changed(small, trainer__num_workers=0, trainer__budget__epochs=4))
    records = skipped_batches_of(run)
    (bad_id,) = bad_ids
    assert len(records) == json.loads(run.summary.read_text())["skipped_steps"] > 1
    assert all(bad_id in record["images"] and len(record["images"]) == 8 for record in records)
    told = [r.message for r in caplog.records if "was skipped" in r.message]
    assert len(told) == len(records)
    for line, record in zip(told, records, strict=True):
        assert f"Step {record['step']} " in line and ", ".join(record["images"]) in line


def test_of_many_skipped_steps_five_are_told_and_all_are_kept(
    small: DictConfig,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    original = TrainingStep.__call__

    def spoiled(self: Any, micro_batches: Any) -> Any:
        return original(self, [batch._replace(images=batch.images * math.nan) for batch in micro_batches])

    monkeypatch.setattr(TrainingStep, "__call__", spoiled)
    cfg = changed(small, trainer__accumulate_steps=2, trainer__budget__epochs=7)
    with pytest.raises(Diverged, match="Every step was skipped, 7 in all"):
        fit_config(tmp_path, cfg)
    records = skipped_batches_of(RunDirectory(tmp_path))
    assert [record["step"] for record in records] == [*range(1, 8)]
    assert all(len(set(record["images"])) == 16 for record in records)
    told = [r.message for r in caplog.records if "Its images, all in" in r.message]
    assert len(told) == 5 and all(line.endswith(" and 8 more") for line in told)


def test_a_resumed_run_goes_on_with_the_skipped_steps_up_to_its_checkpoint(
    small: DictConfig,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        spoil_batch(patch, step=2, value=math.nan)
        run = fit_config(tmp_path, changed(small, trainer__budget__epochs=1))
    (before,) = skipped_batches_of(run)
    run.append_skipped(5, ["of a part that the checkpoint does not hold"])
    with open(run.skipped_batches, "a") as file:
        file.write('{"step": 1, "ima')  # torn by a crash

    spoil_batch(monkeypatch, step=1, value=math.nan)
    fit_config(tmp_path, changed(small, trainer__resume="auto"))
    first, second = skipped_batches_of(run)
    assert first == before and first["step"] == 2
    assert second["step"] == 4
