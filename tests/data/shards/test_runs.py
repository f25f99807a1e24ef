"""Runs on shards: mixed in windows, resumed in the middle, restored, and closed to strangers."""

from pathlib import Path

import pytest

from miniclip import provenance
from miniclip.config.restore import restore
from miniclip.errors import UserError
from miniclip.runs import RunDirectory
from tests.conftest import TINY, fit, interrupt_at_step, miniclip_command
from tests.data.shards.tars import write_shards


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of eight images, of which the last validates."""
    folder = write_shards(tmp_path_factory.mktemp("shards"), num_shards=4, num_images=8)
    (folder / "train-0003.tar").rename(folder / "val-0000.tar")
    return folder


def settings(folder: Path) -> list[str]:
    """A tiny run of six steps, three an epoch, whose epochs mix two shards at a time."""
    data = ["data=shards", f"data.urls={folder}", "data.shuffle_window=2", "trainer.num_workers=0"]
    return [*TINY, *data, "optimizer=adamw", "trainer.checkpoint_every_steps=1"]


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A whole run."""
    return fit(tmp_path_factory.mktemp("run"), *settings(folder))


def test_a_resumed_run_is_the_uninterrupted_one(
    run: RunDirectory, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, step=5)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "cut", *settings(folder))
    with pytest.raises(UserError, match=r"data\.shuffle_window=1 \(the checkpoint has 2\)"):
        fit(
            tmp_path / "other",
            *settings(folder),
            "data.shuffle_window=1",
            f"trainer.resume={tmp_path / 'cut'}",
        )
    resumed = fit(tmp_path / "cut", *settings(folder), f"trainer.resume={tmp_path / 'cut'}")
    assert losses(resumed) == losses(run)


def losses(run: RunDirectory) -> dict[int, float]:
    """The training loss of each step, by its number."""
    found = {row["step"]: row["train/loss"] for row in run.read_metrics() if "train/loss" in row}
    assert len(found) == 6
    return found


def test_an_own_run_opens_its_shards_and_a_strangers_none(
    run: RunDirectory, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, val = restore(run.path).datasets()
    assert (len(train), len(val), val.split.name) == (24, 8, "val")

    monkeypatch.setattr(provenance.platformdirs, "user_state_path", lambda name: tmp_path / "other" / name)
    with pytest.raises(UserError, match=r"is not opened: data\.urls="):
        restore(run.path).datasets()
    assert len(restore(run.path, f"data.urls={folder}").datasets()[1]) == 8


def test_the_doctor_examines_shards(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("imagehash")
    answer = miniclip_command(tmp_path, "doctor", "data=shards", f"data.urls={folder}")
    assert "train: 24 images, 24 captions" in answer.stdout, answer.stderr
    assert "val: 8 images" in answer.stdout
