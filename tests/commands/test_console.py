"""Consoles of all kinds: what they show and what they end."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from miniclip.commands.console import INTERRUPTED, one_line_errors
from tests.conftest import ROOT

SPEAK = "from miniclip.commands.console import console\nwith console():\n    "


def speak(line: str, redirection: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line as a command of ours, in a shell."""
    return subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {redirection}', sys.executable, SPEAK + line],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
    )


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_letters_that_the_console_lacks_are_escaped(encoding: str) -> None:
    done = speak("print('\\u72ac.jpg')", PYTHONIOENCODING=encoding)
    assert done.stdout.strip() == b"\\u72ac.jpg" and done.stderr == b""


@pytest.mark.parametrize("line", ["print(text)", "sys.exit(text)", "sys.stderr.writelines([text])"])
def test_what_a_terminal_would_obey_is_shown(line: str) -> None:
    done = speak(f"import sys; text = 'a\\x1b[2J\\rb\\x9b1m\\u202ec\\td'; {line}")
    shown = (done.stdout + done.stderr).decode().strip()
    assert shown == r"a\x1b[2J\rb\x9b1m\u202ec" + "\td"


def test_a_progress_bar_moves() -> None:
    bars = "[[None for step in tqdm(range(2))] for epoch in tqdm(range(2))]"
    done = speak(f"from tqdm import tqdm; {bars}")
    assert b"\r100%" in done.stderr and b"\x1b[A" in done.stderr
    assert b"\\" not in done.stderr


def test_a_reader_that_goes_ends_a_command_in_silence() -> None:
    done = speak("[print(i) for i in range(100000)]", "| head -1")
    assert done.stdout == b"0\n" and done.stderr == b""


def test_a_closed_stream_takes_everything() -> None:
    done = speak("import sys; sys.stderr.write('lost'); print('kept')", "2>&-")
    assert (done.returncode, done.stdout) == (0, b"kept\n")


def test_an_interrupt_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors([]):
        raise KeyboardInterrupt
    assert ended.value.code == INTERRUPTED and capsys.readouterr().err == "Stopped.\n"


def test_a_current_folder_that_is_gone_is_told_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(SystemExit, match=r"^Error: The current folder is gone"), one_line_errors([]):
        pytest.fail("the command was begun")


def test_a_standard_output_without_room_is_named() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(SystemExit, match=r"^Error: A file, or the standard output"), one_line_errors([]):
        raise full
