"""The command line's surroundings: consoles of all kinds, and who starts it."""

import os
import subprocess
import sys

import pytest

from miniclip.cli import train
from tests.conftest import ROOT, run_miniclip

SPEAK = "from miniclip.cli import _console\nwith _console():\n    "


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


def test_a_reader_that_goes_ends_a_command_in_silence() -> None:
    done = speak("[print(i) for i in range(100000)]", "| head -1")
    assert done.stdout == b"0\n" and done.stderr == b""


def test_a_closed_stream_takes_everything() -> None:
    done = speak("import sys; sys.stderr.write('lost'); print('kept')", "2>&-")
    assert (done.returncode, done.stdout) == (0, b"kept\n")


@pytest.mark.parametrize(("rank", "said"), [("0", "torchrun started 2 processes"), ("1", "1")])
def test_several_processes_of_torchrun_are_refused_by_the_first(
    rank: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as caught:
        train()
    assert said in str(caught.value.code) and "\n" not in str(caught.value.code)


def test_an_old_name_is_told_on_the_command_line() -> None:
    result = run_miniclip("--cfg", "job", "optimizer.every=5", "data.eval_crop=centre")
    assert "  interval: 5\n" in result.stdout and "  eval_crop: center\n" in result.stdout
    assert "optimizer.every=5 is optimizer.interval=5 now" in result.stderr
