"""A folder of a cache is there whole or not at all; what killed processes leave goes."""

import errno
import os
import time
from pathlib import Path

import pytest

from miniclip.data.whole_folder import LOCK, fits_into_memory, sweep, whole_folder
from miniclip.files import locked


def left_behind(parent: Path, *, seconds_ago: float) -> Path:
    """What a process leaves that was killed so long ago."""
    folder = parent / ".pixels-1.abc"
    folder.mkdir()
    for path in (folder / "pixels.bin", folder / LOCK):
        path.write_bytes(b"half")
    for path in (folder, *folder.iterdir()):
        os.utime(path, (time.time() - seconds_ago,) * 2)
    return folder


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "a") as partial:
        (partial / "x").write_text("1")
        assert not (tmp_path / "a").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "x"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), ValueError()])
def test_what_was_not_completed_leaves_no_trace(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), whole_folder(tmp_path / "a") as partial:
        (partial / "x").write_text("1")
        raise error
    assert not list(tmp_path.iterdir())


def test_of_two_the_faster_one_stays(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "a") as slower:
        (slower / "x").write_text("slower")
        with whole_folder(tmp_path / "a") as faster:
            (faster / "x").write_text("faster")
    assert (tmp_path / "a" / "x").read_text() == "faster" and len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_has_left_is_removed(tmp_path: Path) -> None:
    left = left_behind(tmp_path, seconds_ago=120)
    with whole_folder(tmp_path / "b"):
        assert not left.exists()


def test_what_a_process_still_fills_is_left_alone(tmp_path: Path) -> None:
    left = left_behind(tmp_path, seconds_ago=120)
    with locked(left / LOCK):
        sweep(tmp_path)
        assert left.is_dir()


def test_what_was_written_a_moment_ago_is_left_alone(tmp_path: Path) -> None:
    """Some file systems have no locks."""
    left = left_behind(tmp_path, seconds_ago=1)
    sweep(tmp_path)
    assert left.is_dir()


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    other = tmp_path / ".git"
    other.mkdir()
    (other / ".lock").touch()
    for path in (other / ".lock", other):
        os.utime(path, (0, 0))
    sweep(tmp_path)
    assert other.is_dir()
    sweep(tmp_path / "nowhere")


def test_half_of_the_free_memory_is_taken_at_most() -> None:
    assert not fits_into_memory(1e15)
    assert fits_into_memory(1000) == Path("/proc/meminfo").exists()
