"""The run directory: one owner that names, locks, clears and reads it."""

from pathlib import Path

import pytest

from miniclip.errors import UserError
from miniclip.runs import RunDirectory, read_state


def test_a_run_directory_is_held_once_and_looking_does_not_take_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with run.lock():
        run.write_status("running")
        assert read_state(tmp_path).status == "running"
        with pytest.raises(UserError, match="Another process trains in"), RunDirectory(tmp_path).lock():
            pass
    assert read_state(tmp_path).status == "killed"
