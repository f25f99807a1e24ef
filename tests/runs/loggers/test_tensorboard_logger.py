"""TensorBoard as a view: what is on disk afterwards."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from miniclip.config.build import check
from miniclip.config.compose import compose
from miniclip.errors import UserError
from miniclip.runs import JsonlLogger, RunFacts, TensorboardLogger, WandbLogger


def test_tensorboard_holds_the_same_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    Image.new("RGB", (4, 4)).save(tmp_path / "curves.png")
    logger = JsonlLogger(every_steps=1, tensorboard=TensorboardLogger())
    logger.start(tmp_path / "metrics.jsonl", RunFacts("run", {"seed": 0}))
    for step, loss in ((1, 0.5), (2, 0.25)):
        logger.log({"step": step, "train/loss": loss, "protocol": "val"})
    logger.finish(failed=False, summary={}, figures={"curves": tmp_path / "curves.png"})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 0.5), (2, 0.25)]
    assert events.Tags()["images"] == ["curves"]


def test_steps_that_come_again_are_shown_once(tmp_path: Path) -> None:
    """A run that was killed after step 3 and goes on from step 2, whose validation was still to come."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    steps = ({"step": 2, "val/rsum": 9.0}, {"step": 3, "train/loss": 0.3}, {"step": 4, "train/loss": 0.2})
    for records in ([{"step": step, "train/loss": 0.5} for step in (1, 2, 3)], steps):
        logger = JsonlLogger(every_steps=1, tensorboard=TensorboardLogger())
        logger.start(tmp_path / "metrics.jsonl", RunFacts("run", {}))
        for record in records:
            logger.log(record)
        logger.finish(failed=False, summary={}, figures={})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert found == [(1, 0.5), (2, 0.5), (3, pytest.approx(0.3)), (4, pytest.approx(0.2))]
    assert [event.step for event in events.Scalars("val/rsum")] == [2]


def test_a_run_that_goes_on_in_another_directory_is_shown_from_its_start(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 0.5}\n{"step": 1, "val/rsum": 9}\n')
    logger = JsonlLogger(every_steps=1, tensorboard=TensorboardLogger())
    logger.start(tmp_path / "metrics.jsonl", RunFacts("run", {}))
    logger.log({"step": 2, "train/loss": 0.25})
    logger.finish(failed=False, summary={}, figures={})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 0.5), (2, 0.25)]
    assert [event.step for event in events.Scalars("val/rsum")] == [1]


def test_a_view_that_fails_is_told_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")
    view = TensorboardLogger()
    logger = JsonlLogger(every_steps=1, tensorboard=view)
    logger.start(tmp_path / "metrics.jsonl", RunFacts("run", {}))

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    for step in range(3):
        logger.log({"step": step, "train/loss": 0.5})
    logger.finish(failed=False, summary={}, figures={"lost": tmp_path / "nowhere.png"})
    assert view.writer is not None
    view.writer.close()
    assert caplog.text.count("No space left on device") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_goes_beside_weights_and_biases(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    wandb = WandbLogger(project="test", entity=None, mode="offline", job_type="train", log_model=False)
    logger = JsonlLogger(every_steps=1, wandb=wandb, tensorboard=TensorboardLogger())
    logger.start(tmp_path / "metrics.jsonl", RunFacts("run", {}))
    logger.log({"step": 1, "train/loss": 0.5})
    logger.finish(failed=False, summary={}, figures={})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("train/loss")] == [0.5]
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_that_it_is_missing_is_told_before_data_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *args: None if name == "tensorboard" else found(name, *args),
    )
    with pytest.raises(UserError, match="logger=tensorboard needs tensorboard"):
        check(compose("logger=tensorboard"))
