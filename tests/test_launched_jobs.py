"""Jobs in worker processes: stopped by a signal to their launcher, and never outliving it."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from miniclip.files import read_json
from miniclip.launched_jobs import LAUNCHER
from miniclip.stop_signals import SIGNALS, TWICE_SECONDS
from tests.conftest import ROOT, TINY
from tests.in_process import train_in_process

if not hasattr(signal, "pthread_sigmask"):
    pytest.skip("needs signals that can be blocked", allow_module_level=True)

WORKER = """
import os, sys, time
from pathlib import Path
from miniclip.launched_jobs import is_worker, result_in_worker
from miniclip.stop_signals import Interrupted, stop_signals

folder = Path(sys.argv[1])

def job():
    (folder / "begun").touch()
    try:
        for _ in range(1000):
            time.sleep(0.01)
            stop_signals.check()
    except Interrupted as interruption:
        time.sleep(float(os.environ["SAVE_SECONDS"]))
        (folder / "saved").write_text(str(interruption.signum))
        raise
    return 1.0

assert is_worker()
results = [result_in_worker(job) for _ in range(int(sys.argv[2]))]
(folder / "results").write_text(str(results))
time.sleep(10)  # idle
"""
"""A worker process: begins jobs of ten seconds one after another, each of which can be stopped."""

LAUNCH = f"""
import subprocess, sys, time
from pathlib import Path
from miniclip.launched_jobs import launcher_of_this_process
from miniclip.stop_signals import Interrupted, shell_status, stop_signals

stop_signals.take_over()
try:
    with launcher_of_this_process().telling():
        worker = subprocess.Popen([sys.executable, "-c", {WORKER!r}, *sys.argv[1:]])
        print(worker.pid, flush=True)
        while stop_signals.signum is None or not Path(sys.argv[1], sys.argv[3]).exists():
            time.sleep(0.01)
except Interrupted as interruption:
    sys.exit(shell_status(interruption.signum))
"""
"""A launcher of one such worker, which after a signal waits until the worker has written a file."""


class Launched:
    """A launcher and its worker, in a process group of their own."""

    def __init__(self, folder: Path, waits_for: str, *, num_jobs: int = 1, save_seconds: float = 0.1):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(folder), str(num_jobs), waits_for],
            cwd=ROOT,
            env={**os.environ, "SAVE_SECONDS": str(save_seconds)},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.worker = int(self.process.stdout.readline())

    def send(self, signum: int, *, to_group: bool) -> None:
        (os.killpg if to_group else os.kill)(self.process.pid, signum)

    def wait_for(self, name: str) -> None:
        wait_until((self.folder / name).exists)

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()

    def worker_is_gone(self) -> bool:
        try:
            state = Path(f"/proc/{self.worker}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        return state == "Z"


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("signum", SIGNALS)
@pytest.mark.parametrize("to_group", [False, True])
def test_a_signal_to_the_launcher_stops_the_job_which_saves(
    signum: signal.Signals, to_group: bool, tmp_path: Path
) -> None:
    launched = Launched(tmp_path, "saved")
    launched.wait_for("begun")
    launched.send(signum, to_group=to_group)
    assert launched.process.wait(20) == 128 + signum
    assert launched.read("saved") == str(int(signum))
    wait_until(launched.worker_is_gone)


def test_a_job_ends_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    launched = Launched(tmp_path, "nothing")
    launched.wait_for("begun")
    launched.process.kill()
    wait_until(launched.worker_is_gone)
    assert launched.read("saved") == str(int(signal.SIGTERM))


def test_no_job_begins_in_a_worker_after_the_signal(tmp_path: Path) -> None:
    launched = Launched(tmp_path, "results", num_jobs=3)
    launched.wait_for("begun")
    (tmp_path / "begun").unlink()
    launched.send(signal.SIGTERM, to_group=True)
    assert launched.process.wait(20) == 143
    assert launched.read("results") == str([math.nan] * 3)
    assert not (tmp_path / "begun").exists()


def test_a_signal_to_a_job_stops_no_other(tmp_path: Path) -> None:
    launched = Launched(tmp_path, "nothing", num_jobs=2)
    launched.wait_for("begun")
    (tmp_path / "begun").unlink()
    os.kill(launched.worker, signal.SIGTERM)
    launched.wait_for("saved")
    launched.wait_for("begun")  # the second job
    launched.process.kill()


def test_an_idle_worker_does_not_die_of_a_signal_to_the_group(tmp_path: Path) -> None:
    launched = Launched(tmp_path, "nothing", num_jobs=0)
    launched.wait_for("results")
    launched.send(signal.SIGINT, to_group=True)
    time.sleep(0.5)
    assert not launched.worker_is_gone()
    launched.process.kill()
    os.kill(launched.worker, signal.SIGKILL)


def test_a_second_signal_ends_launcher_and_job_at_once(tmp_path: Path) -> None:
    launched = Launched(tmp_path, "saved", save_seconds=60)
    launched.wait_for("begun")
    launched.send(signal.SIGTERM, to_group=False)
    time.sleep(2 * TWICE_SECONDS)
    launched.send(signal.SIGINT, to_group=False)
    assert launched.process.wait(20) == 130
    wait_until(launched.worker_is_gone)
    assert not (tmp_path / "saved").exists()


def test_a_run_that_a_job_starts_is_no_worker(noise_folder: Path, tmp_path: Path) -> None:
    of_dead_launcher = json.dumps([1, "00", str(tmp_path / "socket")])
    data = [
        "data=folder",
        f"data.root={noise_folder}",
        "data.val_fraction=0.25",
        "tokenizer.vocab_size=300",
    ]
    settings = [*TINY[:-1], *data, "trainer.budget.steps=1", f"hydra.run.dir={tmp_path / 'run'}"]
    done = train_in_process(*settings, **{LAUNCHER: of_dead_launcher})
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "run" / "status.json")["status"] == "completed"
