"""The command: a real process that serves and stops, and one line for what is wrong."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from miniclip.commands.serve import THREAD_SETTINGS
from miniclip.runs import RunDirectory
from tests.conftest import ROOT
from tests.in_process import Answer


@pytest.fixture
def index(
    class_run: RunDirectory, class_folder: Path, miniclip: Callable[..., Answer], tmp_path: Path
) -> Path:
    """An index of a few squares, by a run."""
    done = miniclip("embed", class_run.path, class_folder / "red_square", "-o", "index")
    assert done.returncode == 0, done.stderr
    return tmp_path / "index"


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGTERM")
def test_it_serves_until_it_is_told_to_stop(index: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "from miniclip.cli import main; main()", "serve", str(index), "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"http://127\.0\.0\.1:(\d+)/ ", line)
        assert found, line
        form = urllib.parse.urlencode({"text": "red square", "k": 2}).encode()
        with urllib.request.urlopen(f"{found[0].strip()}search", data=form, timeout=20) as answer:
            assert answer.status == 200 and b"red_square" in answer.read()

        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")
        assert time.monotonic() - start < 5
    finally:
        process.kill()
        process.wait()


def test_what_is_wrong_is_told_in_one_line(
    index: Path, class_folder: Path, miniclip: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*words: object) -> str:
        answer = miniclip("serve", *words)
        assert answer.returncode == 1 and answer.stderr.count("\n") == 1, answer.stderr
        return answer.stderr

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"--port={port}: is in use" in told(index, "--port", port)
    assert "--port=70000: must lie between" in told(index, "--port", 70000)
    assert "is no address of this machine" in told(index, "--host", "no.such.host.invalid")
    assert "holds no index" in told(class_folder, "--port", 0)
    assert "up to 2 indexes" in told(index, index, index)
    assert "once per INDEX" in told(index, index, "--model", "x")
    assert "There is no model" in told(index, "--model", "gone", "--port", 0)
    assert "--token=***: must be 8" in told(index, "--token", "short", "--port", 0)

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert 'needs uvicorn: pip install -e ".[serve]"' in told(index)


def test_requests_share_the_processors_unless_the_user_says_otherwise() -> None:
    code = """if True:
        import os, sys
        from miniclip.commands import serve
        os.cpu_count = lambda: 2
        assert "numpy" not in sys.modules  # which looks at the environment when it is imported
        assert serve._threads_per_request() == 1

        import numpy, torch
        print(os.environ["OPENBLAS_NUM_THREADS"], torch.get_num_threads())
    """
    settings = {name: value for name, value in os.environ.items() if name not in THREAD_SETTINGS}
    for own, told in ({}, "1 1"), ({"OPENBLAS_NUM_THREADS": "7"}, "7 1"):
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env={**settings, **own}, capture_output=True, text=True)
        assert done.stdout.split() == told.split(), done.stderr
