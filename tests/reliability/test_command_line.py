"""Odd command lines, folders and consoles: one line and the right exit status, or a run that goes on."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.in_process import train_in_process
from tests.reliability.trials import TINY, Trial

QUICK = (*TINY, "trainer.budget.epochs=1", "data.limit=32")

NO_HOME = {"HOME": "/nonexistent", "XDG_CACHE_HOME": ""}


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("trainer.num_workers=100000", "trainer.num_workers=100000: must be at most "),
        ("=1", '"=1" names no setting; type SETTING=VALUE'),
        ("name==b", "name==b: cannot be read; type text in quotes: "),
        ("seed=99999999999999999999", "seed=99999999999999999999: must lie between 0 and 4294967295"),
        ("seed=-1", "seed=-1: must lie between 0 and 4294967295"),
        ("optimizer.base.lr=.inf", "optimizer.base.lr='.inf': must be a number"),
        ("optimizer.base.lr=inf", "optimizer.base.lr=inf: must be a finite number"),
        ("hydra.run.dir=", "hydra.run.dir=: names no folder"),
        ("hydra.run.dir=''", "hydra.run.dir='': names no folder"),
        ("hydra.run.dir=file", "file: file exists. Choose a place that is a folder"),
        ("hydra.run.dir=file/below", "file/below: not a directory. Choose a place that is a folder"),
        (f"hydra.run.dir={'x' * 300}", "xxx: file name too long. Choose a shorter name"),
        ("image_size=1000000000", "image_size=1000000000: must be at most 536870912"),
    ],
)
def test_an_odd_word_is_one_line(tmp_path: Path, word: str, line: str) -> None:
    (tmp_path / "file").touch()
    done = train_in_process(*QUICK, "hydra.run.dir=run", word, cwd=tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: ") and line in last
    assert "Traceback" not in done.stderr and done.stderr.count("Error") == 1


def test_an_empty_resume_is_one_line(tmp_path: Path) -> None:
    done = train_in_process(*QUICK, "hydra.run.dir=run", "trainer.resume=", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "Error: trainer.resume='': must be null, auto, or a path"
    )


@pytest.mark.long
def test_without_a_home_it_trains(tmp_path: Path) -> None:
    """The emoji are drawn again, which takes seconds; that is told once."""
    trial = Trial(*QUICK, f"hydra.run.dir={tmp_path / 'run'}", output=tmp_path / "output.txt", **NO_HOME)
    assert trial.wait() == 0, trial.printed
    assert (tmp_path / "run" / "summary.json").is_file()


@pytest.mark.parametrize("cache", ["none", "disk"])
def test_without_a_cache_it_trains(tmp_path: Path, cache: str) -> None:
    (tmp_path / "file").touch()
    settings = (f"data.cache_dir={tmp_path / 'file' / 'cache'}", f"data.cache={cache}")
    run = tmp_path / "run"
    trial = Trial(*QUICK, *settings, f"hydra.run.dir={run}", output=tmp_path / "output.txt")
    assert trial.wait() == 0, trial.printed
    assert trial.printed.count("The drawings cannot be kept") == 1
    assert trial.printed.count("are kept in memory instead") == (2 if cache == "disk" else 0)


def _in_a_folder_that_goes(folder: Path) -> None:
    folder.mkdir()
    os.chdir(folder)
    folder.rmdir()


def test_a_current_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    before = partial(_in_a_folder_that_goes, tmp_path / "gone")
    trial = Trial(*QUICK, output=tmp_path / "output.txt", before=before)
    assert trial.wait() == 1
    assert trial.printed.count("\n") == 1
    assert trial.printed.startswith("Error: The current folder is gone. Change into another one (cd).")


@pytest.mark.long
@pytest.mark.parametrize(
    ("redirection", "environment"),
    [
        (">&-", {}),
        ("2>&-", {}),
        (">&- 2>&-", {}),
        ("> /dev/full", {}),
        ("> /dev/full 2>&1", {}),
        ("2>&1 | head -1", {}),
        ("", {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    ],
)
def test_whatever_the_console_is_a_training_ends_well(
    tmp_path: Path, redirection: str, environment: dict[str, str]
) -> None:
    folder = tmp_path / "犬 é"
    line = f'set -o pipefail; "$0" run.py "$@" {redirection}'
    done = subprocess.run(
        ["bash", "-c", line, sys.executable, *QUICK, f'hydra.run.dir="{folder}"'],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "summary.json").is_file()
    told = (done.stdout + done.stderr).decode(errors="replace")
    assert "Traceback" not in told and "Logging error" not in told
