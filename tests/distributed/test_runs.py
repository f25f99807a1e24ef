"""Runs of two processes, as torchrun starts them: one run directory, an end for all, and going on."""

import shutil
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from miniclip.runs import RunDirectory
from miniclip.training.guards import Diverged
from tests.conftest import TINY, fit
from tests.distributed.children import Child, children, train_with

SMALL = (
    *TINY,
    "encoder.image.architecture=test_convnext",
    "precision=fp32",
    "trainer.num_workers=0",
    "optimizer=sam",
    "schedule=constant",
)


def two(
    folder: Path, *settings: str, of_second: tuple[str, ...] = (), **env: str
) -> AbstractContextManager[list[Child]]:
    """Two processes of one run."""
    words = [*SMALL, *settings, f"hydra.run.dir={folder / 'run'}"]
    return children(folder, train_with, [tuple(words), (*words, *of_second)], **env)


def records(run: RunDirectory) -> list[dict]:
    """What the run recorded of its steps, without their times."""
    steps = [each for each in run.read_metrics() if "train/loss" in each]
    return [{key: value for key, value in each.items() if key != "train/seconds"} for each in steps]


def wait_for_steps(run: RunDirectory, count: int) -> None:
    deadline = time.monotonic() + 90
    while not run.metrics.is_file() or run.metrics.read_text().count("train/loss") < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_one_process_two_and_one_again_are_one_run(tmp_path: Path) -> None:
    """A signal to the second process alone stops both, with all that was trained."""
    whole = fit(tmp_path / "whole", *SMALL, "trainer.budget.epochs=4")
    fit(tmp_path / "run", *SMALL, "trainer.budget.steps=3")

    run = RunDirectory(tmp_path / "run")
    goes_on = ("trainer.resume=auto", "trainer.budget.epochs=4", "trainer.checkpoint_every_steps=1")
    with two(tmp_path, *goes_on) as (main, second):
        wait_for_steps(run, 6)
        second.process.terminate()
        printed = main.said(), second.said()
    assert "Resumed from" in printed[0] and "Interrupted at step" in printed[0], printed
    assert printed[1] == ""
    assert (main.end(), second.end()) == (143, 143)
    assert run.read_status()["status"] == "interrupted"

    fit(tmp_path / "run", *SMALL, *goes_on)
    ours, theirs = records(run), records(whole)
    assert [each["step"] for each in ours] == [each["step"] for each in theirs]
    for own, other in zip(ours, theirs, strict=True):
        assert own == pytest.approx(other, rel=1e-3, abs=1e-3, nan_ok=True)


def test_when_one_is_killed_all_end_and_auto_goes_on(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with two(tmp_path, "trainer.budget.epochs=40", "trainer.checkpoint_every_steps=1") as (
        main,
        second,
    ):
        wait_for_steps(run, 3)
        second.process.kill()
        printed = main.said()
        assert main.end() == 1
    assert "Another of the processes that train together has ended" in printed.splitlines()[-1], printed
    assert "Traceback" not in printed
    assert run.read_status()["status"] == "interrupted"

    restarted = {"TORCHELASTIC_RESTART_COUNT": "1"}
    with two(tmp_path, "trainer.budget.steps=6", **restarted) as (main, second):
        printed = main.said()
        assert (main.end(), second.end()) == (0, 0), printed
    assert "Started again by torchrun (1): trainer.resume=auto" in printed and "Resumed from" in printed


def test_processes_of_other_data_do_not_train_together(tmp_path: Path, noise_folder: Path) -> None:
    for node in ("a", "b"):
        shutil.copytree(noise_folder, tmp_path / node / "photos")
    (tmp_path / "b" / "photos" / "03.png").unlink()
    (tmp_path / "b" / "photos" / "03.txt").unlink()
    settings = ("data=folder", f"data.root={tmp_path / 'a' / 'photos'}", "optimizer=adamw")
    with two(tmp_path, *settings, of_second=(f"data.root={tmp_path / 'b' / 'photos'}",)) as (main, second):
        printed = main.said()
        second.process.terminate()
        assert main.end() != 0 and second.end() != 0
    assert "The processes read different data: process 1 trains on 35 images" in printed, printed


def test_what_is_wrong_with_rows_is_that_of_all_processes(tmp_path: Path, noise_folder: Path) -> None:
    """Broken images, false negatives, and the images of skipped steps are those of one process alone."""
    data = shutil.copytree(noise_folder, tmp_path / "data")
    for place, text in enumerate(sorted(data.glob("*.txt"))):
        text.write_text(f"a caption of {place % 4}")
    for image in sorted(data.glob("*.png"))[1:4]:
        image.write_bytes(image.read_bytes()[:200])
    broken = ("data.on_broken_image=skip", "data.max_broken_fraction=0.2", "data.val_fraction=0.1")
    settings = ("data=folder", f"data.root={data}", *broken, "optimizer=adamw", "optimizer.lr=1e30")
    short = (*settings, "trainer.budget.steps=4")

    with pytest.raises(Diverged):  # no weights but the first ones are of any use
        fit(tmp_path / "alone", *SMALL, *short)
    with two(tmp_path, *short) as (main, _):
        printed = main.said()
    assert "Other images stood in for 3 that cannot be read (3 broken)." in printed, printed
    alone, run = RunDirectory(tmp_path / "alone"), RunDirectory(tmp_path / "run")
    ours, theirs = ([each["train/false_negatives"] for each in records(of)] for of in (run, alone))
    assert ours == theirs and min(ours) > 0
    assert run.skipped_batches.read_text() == alone.skipped_batches.read_text() != ""


@pytest.mark.parametrize(
    ("settings", "of_second", "line"),
    [
        (
            (),
            ("optimizer.rho=0.1",),
            "different settings: optimizer.rho is 0.05 in the main one, 0.1 in process 1",
        ),
        (
            ("trainer.budget.steps=4",),
            ("trainer.budget.steps=400",),
            "different settings: trainer.budget.steps is 4 in the main one, 400 in process 1",
        ),
        (("trainer.batch_size=9",), (), "trainer.batch_size=9: must be a multiple of 2"),
        (("data=folder", "data.root=nowhere"), (), "nowhere"),
        (("--multi", "seed=0,1"), (), "torchrun started 2 processes, which train one run, no sweep"),
    ],
)
def test_what_cannot_be_trained_together_is_told_once(
    settings: tuple[str, ...], of_second: tuple[str, ...], line: str, tmp_path: Path
) -> None:
    with two(tmp_path, *settings, of_second=of_second) as (main, second):
        printed = main.said()
        second.process.terminate()  # as torchrun does when one has ended
        of_other = second.said()
        assert main.end() != 0 and second.end() != 0
    errors = [text for text in printed.splitlines() if text.startswith("Error")]
    assert len(errors) == 1 and line in errors[0], printed
    assert of_other == ""
