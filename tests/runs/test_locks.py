"""Locks: one holder, which may end in any way, on systems with and without flock."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from miniclip.errors import UserError
from miniclip.runs import RunDirectory, locks, read_state
from miniclip.runs.locks import is_locked, locked
from tests.conftest import ROOT

HOLDER = (
    "import sys, time; from pathlib import Path; from miniclip.runs.locks import locked\n"
    "with locked(Path(sys.argv[1])) as is_free:\n    print(is_free, flush=True); time.sleep(60)"
)


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path) and not path.exists()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, str(path)]
    holder = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "True\n"
    assert is_locked(path)
    with locked(path) as is_free:
        assert not is_free
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert not is_locked(path)


def test_a_run_directory_is_held_once_and_looking_does_not_take_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with run.held():
        run.write_status("running")
        assert read_state(tmp_path).status == "running"
        with pytest.raises(UserError, match="Another process trains in"), RunDirectory(tmp_path).held():
            pass
    assert read_state(tmp_path).status == "killed"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_that_ends_leaves_the_lock(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        assert is_locked(tmp_path / "lock")


def test_a_file_system_without_locks_refuses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoLock(locks.FileLock):  # type: ignore[misc, valid-type]
        def _acquire(self) -> None:
            raise NotImplementedError("no locks here")

    monkeypatch.setattr(locks, "FileLock", NoLock)
    with locked(tmp_path / "lock") as is_free, locked(tmp_path / "lock") as is_free_as_well:
        assert is_free and is_free_as_well
    assert not is_locked(tmp_path / "lock")


def test_it_runs_where_there_is_no_fcntl(tmp_path: Path) -> None:
    program = (
        "import sys, warnings; sys.modules['fcntl'] = None; warnings.simplefilter('ignore')\n"
        "import miniclip.commands.job; from pathlib import Path; from miniclip.runs import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).held(): print('held')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "held\n", done.stderr


def test_looking_is_quick(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"):
        started = time.perf_counter()
        assert is_locked(tmp_path / "lock")
    assert time.perf_counter() - started < 2
