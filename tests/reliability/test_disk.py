"""A disk that is full, read-only, limited or gone: one line, a sound checkpoint, the same result."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from miniclip.runs import RunFiles, read_state
from miniclip.training.checkpoint import load_checkpoint
from tests.reliability.limits import fill, filler, limit_files, make_read_only, tiny_disk
from tests.reliability.trials import TINY, Trial, before_call, outcome

STEP = "miniclip.training.step:TrainingStep.__call__"

INSTANTS = {
    "start": ("miniclip.runs.run_directory:RunDirectory.write_status", 1),
    "config": ("miniclip.runs.run_directory:RunDirectory.write_config", 1),
    "tokenizer": ("miniclip.tokenizers.base:Tokenizer.save", 1),
    "epoch 1": (STEP, 3),
    "epoch 2": (STEP, 8),
    "validation": ("miniclip.training.validation:Validation.__call__", 2),
    "save": ("miniclip.training.checkpointer:Checkpointer.save", 2),
    "ranks": ("miniclip.runs.run_directory:RunDirectory.write_ranks", 1),
    "curves": ("miniclip.commands.job:draw_curves", 1),
    "figures": ("miniclip.commands.job:draw_retrieval", 1),
}
"""What a run calls, and the how many-eth time, as the disk fails."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run comes to that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    trial = Trial(*TINY, f"hydra.run.dir={folder / 'run'}", output=folder / "output.txt")
    assert trial.wait() == 0, trial.printed
    return outcome(folder / "run")


def starved(run: Path, output: Path, instant: str, action: Callable[[], object]) -> str:
    """The one line with which a run ends to whose disk something happens."""
    target, number = INSTANTS[instant]
    before = before_call(target, number, action)
    trial = Trial(*TINY, f"hydra.run.dir={run}", "trainer.resume=auto", output=output, before=before)
    assert trial.wait() == 1, trial.printed
    assert "Traceback" not in trial.printed and trial.printed.count("Error") == 1, trial.printed
    line = trial.printed.splitlines()[-1].rpartition("\r")[2]
    assert line.startswith("Error: ")
    return line


def resumed(run: Path, output: Path) -> dict[str, Any]:
    """What the run comes to once there is room."""
    trial = Trial(*TINY, f"hydra.run.dir={run}", "trainer.resume=auto", output=output)
    assert trial.wait() == 0, trial.printed
    assert not list(run.rglob(".*.partial"))
    return outcome(run)


def test_a_checkpoint_that_does_not_fit_costs_nothing_but_time(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    line = starved(run, tmp_path / "output.txt", "save", partial(limit_files, 100_000))
    assert f"{run}/checkpoints/last.pt" in line and "file too large" in line.lower()
    assert f"trainer.resume={run}" in line and "file too large" in read_state(run).reason.lower()
    assert load_checkpoint(RunFiles(run).last_checkpoint)["progress"]["step"] == 5
    assert resumed(run, tmp_path / "resumed.txt") == whole


def test_a_run_directory_that_is_removed_is_told_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    line = starved(run, tmp_path / "output.txt", "epoch 2", partial(shutil.rmtree, run))
    assert f"{run}/" in line and "no such file or directory" in line.lower()


@pytest.mark.long
@pytest.mark.parametrize("instant", INSTANTS)
def test_on_a_full_disk_the_last_sound_checkpoint_stays(
    tmp_path: Path, whole: dict[str, Any], instant: str
) -> None:
    with tiny_disk(tmp_path / "disk", megabytes=40) as disk:
        run = disk / "run"
        line = starved(run, tmp_path / "output.txt", instant, partial(fill, disk))
        assert f"{run}/" in line and "no space left on device" in line.lower()

        checkpoint = RunFiles(run).last_checkpoint
        kept = load_checkpoint(checkpoint)["progress"]["step"] if checkpoint.exists() else 0
        filler(disk).unlink()
        assert resumed(run, tmp_path / "resumed.txt") == whole
    print(f"full at {instant}: 1 line, step {kept} kept, resumed to the bit")


@pytest.mark.long
@pytest.mark.parametrize("instant", INSTANTS)
def test_on_a_read_only_disk_the_last_sound_checkpoint_stays(
    tmp_path: Path, whole: dict[str, Any], instant: str
) -> None:
    with tiny_disk(tmp_path / "disk", megabytes=40) as disk:
        run = disk / "run"
        line = starved(run, tmp_path / "output.txt", instant, partial(make_read_only, disk))
        assert f"{run}/" in line and "read-only file system" in line.lower()

        writable = tmp_path / "writable"
        shutil.copytree(run, writable)
        assert resumed(writable, tmp_path / "resumed.txt") == whole
    print(f"read-only at {instant}: 1 line, resumed to the bit")


@pytest.mark.long
@pytest.mark.parametrize("instant", INSTANTS)
def test_a_removed_run_directory_is_told_once_at_every_instant(tmp_path: Path, instant: str) -> None:
    run = tmp_path / "run"
    line = starved(run, tmp_path / "output.txt", instant, partial(shutil.rmtree, run))
    assert f"{run}/" in line and "no such file or directory" in line.lower()
    print(f"removed at {instant}: 1 line")
