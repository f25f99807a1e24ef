"""Saving: one after the other, in a thread on request, and told in a line where the system refuses it."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from miniclip.disk_errors import DiskError
from miniclip.runs import RunDirectory
from miniclip.training import TrainingStep
from miniclip.training.checkpoint import load_checkpoint, save_checkpoint
from miniclip.training.saver import Saver, snapshot
from tests.conftest import TINY, fit

resource = pytest.importorskip("resource", reason="needs a system with limits of file sizes")

FULL = "file too large"


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """The system refuses to write more, as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def disk_full_from_step(step: int, *, until: int = 1000) -> Iterator[None]:
    """The system refuses to write a checkpoint from one step on, until another.

    Saves that were begun before are whole.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    original, calls = TrainingStep.__call__, iter(range(1, 1000))
    savers: list[Saver] = []
    start = Saver.start

    def started(self: Saver, save: Callable[[], None]) -> None:
        savers.append(self)
        start(self, save)

    def called(self: TrainingStep, batches: Any) -> Any:
        number = next(calls)
        if number == step:
            savers[-1].wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        if number == until:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        return original(self, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingStep, "__call__", called)
        patch.setattr(Saver, "start", started)
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("in_background", [False, True])
def test_a_refused_save_leaves_the_one_before_and_names_the_reason(
    in_background: bool, tmp_path: Path
) -> None:
    made = Saver(in_background=in_background, on_error="raise")
    path = RunDirectory(tmp_path).last_checkpoint
    made.start(partial(save_checkpoint, path, {"step": 1}))
    made.wait()

    content = {"step": 2, "weights": torch.zeros(100_000)}
    with files_of_at_most(10_000), pytest.raises(DiskError) as caught:
        made.start(partial(save_checkpoint, path, content))
        made.wait()
    text = str(caught.value)
    assert text.startswith(f"{path}: {FULL}. Lift the limit") and "\n" not in text
    assert [other.name for other in path.parent.iterdir()] == ["last.pt"]
    assert torch.load(path)["step"] == 1

    made.start(partial(save_checkpoint, path, content))
    made.wait()
    assert made.failure is None and torch.load(path)["step"] == 2


def test_a_folder_that_is_gone_is_told_once_and_not_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = Saver(in_background=False, on_error="warn")
    path = RunDirectory(tmp_path / "run").last_checkpoint
    path.parent.rmdir()
    for _ in range(3):
        made.start(partial(save_checkpoint, path, {"step": 1}))
    assert len(caplog.records) == 1
    assert f"Its folder is gone: {path.parent}. Training goes on" in caplog.text
    assert made.failure is not None and not path.parent.exists()


def test_a_second_save_waits_for_the_first(tmp_path: Path) -> None:
    made = Saver(in_background=True, on_error="raise")
    may_end = threading.Event()
    order: list[str] = []

    def first() -> None:
        assert may_end.wait(10)
        order.append("first")

    made.start(first)
    assert order == []
    threading.Timer(0.05, may_end.set).start()
    made.start(lambda: order.append("second"))
    made.wait()
    assert order == ["first", "second"]


def test_an_error_of_another_kind_reaches_the_run(tmp_path: Path) -> None:
    made = Saver(in_background=True, on_error="warn")
    made.start(lambda: [][0])
    with pytest.raises(IndexError):
        made.wait()


def test_a_snapshot_stays_as_it_was() -> None:
    weight = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
    value = {"model": {"weight": weight}, "list": [weight[0], 1], "tuple": (weight, "a")}
    taken = snapshot(value)
    weight += 1
    value["list"].append(2)
    assert taken["model"]["weight"].sum() == taken["list"][0].sum() == taken["tuple"][0].sum() == 0
    assert taken["list"][1:] == [1] and taken["tuple"][1] == "a"
    assert taken["model"]["weight"].is_contiguous(memory_format=torch.channels_last)

    state = torch.nn.BatchNorm2d(1).state_dict()
    assert snapshot(state)._metadata == state._metadata


SETTINGS = (*TINY, "trainer.budget.epochs=2", "trainer.checkpoint_every_steps=2")


@pytest.mark.parametrize("in_background", [False, True])
def test_a_run_on_a_full_disk_ends_or_goes_on_as_told(
    in_background: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk is full from step 4 on."""
    settings = (*SETTINGS, f"trainer.save_in_background={str(in_background).lower()}")
    with disk_full_from_step(4), pytest.raises(DiskError, match=FULL):
        fit(tmp_path / "raise", *settings)
    last = load_checkpoint(tmp_path / "raise" / "checkpoints" / "last.pt")
    assert last["progress"]["step"] == 2

    with disk_full_from_step(4), pytest.raises(DiskError, match=FULL):
        fit(tmp_path / "warn", *settings, "trainer.on_save_error=warn")
    warnings = [r.message for r in caplog.records if "is not saved. " in r.message]
    assert len(warnings) == 1 and warnings[0].endswith("the next tries again.")
    assert "The weights of step 5, the best until now, are not saved." in caplog.text
    folder = tmp_path / "warn" / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"last.pt", "step_00000002.pt"}
    assert load_checkpoint(folder / "last.pt")["progress"]["step"] == 2


def test_a_disk_that_was_full_for_a_while_costs_no_run(tmp_path: Path) -> None:
    with disk_full_from_step(4, until=8):
        run = fit(tmp_path, *SETTINGS, "trainer.on_save_error=warn")
    assert run.read_summary()["best"]["step"] == 10
    assert load_checkpoint(run.best_checkpoint)["progress"]["step"] == 10


def test_the_log_says_nothing_of_saves_that_are_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = Saver(in_background=False, on_error="warn")
    with caplog.at_level(logging.INFO):
        made.start(lambda: None)
    assert caplog.records == []
