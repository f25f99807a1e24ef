"""The run directory: one owner that names, locks, clears and reads it; how a run stands."""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from miniclip.errors import UserError
from miniclip.runs import RunDirectory, read_state, run_directory
from miniclip.runs.state import SILENT_SECONDS, who_is_heard


def running(folder: Path, **details: Any) -> RunDirectory:
    """A run that stands as running, whose lock nobody holds."""
    run = RunDirectory(folder)
    run.write_status("running")
    status = json.loads(run.status.read_text())
    run.status.write_text(json.dumps(status | details))
    return run


def be_silent(run: RunDirectory, seconds: float) -> None:
    last = time.time() - seconds
    os.utime(run.status, (last, last))


def test_a_run_directory_is_held_once_and_looking_does_not_take_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with run.lock():
        run.write_status("running")
        assert read_state(tmp_path).status == "running"
        with pytest.raises(UserError, match="Another process trains in"), RunDirectory(tmp_path).lock():
            pass
    state = read_state(tmp_path)
    assert state.status == "killed" and f"process {os.getpid()} on " in state.reason


@pytest.mark.parametrize("where", [{"host": "another"}, {"lock": False}])
def test_where_no_lock_is_seen_a_run_lives_while_its_heart_beats(
    where: dict[str, Any], tmp_path: Path
) -> None:
    run = running(tmp_path, **where)
    assert read_state(tmp_path).status == "running"
    be_silent(run, SILENT_SECONDS + 1)
    assert read_state(tmp_path).status == "killed"


def test_when_a_run_elsewhere_can_be_taken_over_is_told(tmp_path: Path) -> None:
    run = running(tmp_path, host="another")
    os.utime(run.status, (3600.0, 3600.0))
    assert "on another" in who_is_heard(tmp_path)
    assert "at 01:02:00 UTC or later, which takes the job over" in who_is_heard(tmp_path)
    with run.lock():  # a process of this machine
        assert who_is_heard(tmp_path) == ""


def test_on_this_machine_the_lock_says_all(tmp_path: Path) -> None:
    running(tmp_path)
    assert read_state(tmp_path).status == "killed"


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_there(*args: Any, **kwargs: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr("filelock.FileLock.acquire", not_there)
    run = RunDirectory(tmp_path)
    with run.lock():
        run.write_status("running")
    assert json.loads(run.status.read_text())["lock"] is False
    assert read_state(tmp_path).status == "running"


def test_a_heart_beats_inside_the_context_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_directory, "HEARTBEAT_SECONDS", 0.02)
    run = running(tmp_path, host="another")
    be_silent(run, SILENT_SECONDS + 1)
    with run.heartbeat():
        deadline = time.monotonic() + 10
        while read_state(tmp_path).status == "killed":
            assert time.monotonic() < deadline
            time.sleep(0.01)
    deadline = time.monotonic() + 10
    while any(thread.name == "heartbeat" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("goes_on", [False, True])
def test_an_error_is_of_the_run_that_lies_there_once_it_goes_on(goes_on: bool, tmp_path: Path) -> None:
    run = running(tmp_path)
    run.last_checkpoint.touch()
    be_silent(run, 3600)
    heard = run.status.stat().st_mtime_ns
    with pytest.raises(UserError), run.kept_until_it_goes_on():
        if goes_on:
            run.goes_on()
        run.write_status("failed", reason="other settings")
        raise UserError("other settings")
    assert read_state(tmp_path).status == ("failed" if goes_on else "killed")
    assert goes_on or run.status.stat().st_mtime_ns == heard
