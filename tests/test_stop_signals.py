"""Signals that ask a process to stop: when they are heeded, and what ends with them."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest

from miniclip import stop_signals as module
from miniclip.stop_signals import SIGNALS, Interrupted, StopSignals, leave_to_main_process
from tests.conftest import ROOT


def nothing(signum: int) -> None:
    """No last words."""


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


def ended(program: str, *, status: int = 0) -> subprocess.CompletedProcess[str]:
    """A process that runs a program with `signals` taken over, and ends with a status."""
    start = (
        "import os, signal, time\n"
        "from miniclip import stop_signals as module\n"
        "signals = module.stop_signals\n"
        "signals.take_over()\n"
    )
    done = subprocess.run([sys.executable, "-c", start + program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_waits_until_it_is_asked_for(signum: signal.Signals) -> None:
    signals = StopSignals()
    before = signal.getsignal(signum)
    with signals.caught(), pytest.raises(Interrupted, match=signum.name) as caught, signals.deferred():
        signals.check()
        send(signum)
        signals.check()
    assert caught.value.signum == signum
    assert signal.getsignal(signum) is before and signals.signum is None


def test_one_that_nobody_asked_for_is_raised_at_the_end() -> None:
    signals = StopSignals()
    with signals.caught(), pytest.raises(Interrupted), signals.deferred():
        send(signal.SIGTERM)
        is_at_the_end = True
    assert is_at_the_end


def test_one_is_raised_where_nothing_can_be_torn() -> None:
    signals = StopSignals()
    with signals.caught(), pytest.raises(Interrupted), signals.raised(nothing):
        send(signal.SIGTERM)
        time.sleep(10)


def test_one_that_waited_is_raised_as_soon_as_that_is_possible() -> None:
    signals = StopSignals()
    with signals.caught(), pytest.raises(Interrupted), signals.deferred():
        send(signal.SIGTERM)
        with signals.raised(nothing):
            pytest.fail("not reached")


def test_before_there_is_something_to_save_it_ends_the_process() -> None:
    done = ended("os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(10)", status=143)
    assert done.stderr == "Stopped.\n"


def test_a_second_one_ends_the_process_after_its_last_words() -> None:
    program = (
        "with signals.deferred(), signals.raised(lambda signum: print('last words of', signum)):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(10)\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"  # the same request, as `timeout` makes it twice
        "        print('saving', flush=True)\n"
        "        time.sleep(module.TWICE_SECONDS)\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(10)\n"
    )
    assert ended(program, status=130).stdout == "saving\nlast words of 2\n"


def test_a_fork_heeds_none() -> None:
    program = (
        "fork = os.fork()\n"
        "if fork == 0:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]))\n"
    )
    assert ended(program).stdout == "7\n"


def test_what_is_ignored_stays_ignored() -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals().caught():
            send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, former)


def test_in_another_thread_nothing_is_caught() -> None:
    before = [signal.getsignal(signum) for signum in SIGNALS]
    seen = []

    def look() -> None:
        with StopSignals().caught(), module.stop_signals.deferred():
            seen.extend(signal.getsignal(signum) for signum in SIGNALS)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == before


def test_of_two_that_catch_the_outer_one_does() -> None:
    signals = StopSignals()
    with signals.caught():
        outer = signal.getsignal(signal.SIGTERM)
        with signals.caught():
            assert signal.getsignal(signal.SIGTERM) == outer
        assert signal.getsignal(signal.SIGTERM) == outer


def test_it_travels_between_processes() -> None:
    assert pickle.loads(pickle.dumps(Interrupted(15))).signum == 15


def test_submitit_is_told_when_its_job_has_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    former = signal.signal(signal.SIGUSR2, lambda signum, frame: told.append(signum))
    signals = StopSignals()
    try:
        with signals.caught(), pytest.raises(Interrupted, match="SIGUSR2"), signals.deferred():
            send(signal.SIGUSR2)
            assert told == []
            signals.hand_over(signal.SIGTERM)
            signals.hand_over(signal.SIGUSR2)
        assert told == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, former)


def wait_as_a_worker(seconds: float) -> None:
    leave_to_main_process()
    time.sleep(seconds)


def test_a_worker_outlives_a_signal_and_not_a_second_one() -> None:
    worker = multiprocessing.get_context("fork").Process(target=wait_as_a_worker, args=(30,))
    worker.start()
    time.sleep(0.3)
    for signum in SIGNALS:
        os.kill(worker.pid or 0, signum)
    time.sleep(module.TWICE_SECONDS + 0.1)
    assert worker.is_alive()
    worker.terminate()
    worker.join(5)
    assert worker.exitcode == 0


def test_a_worker_ends_with_its_main_process() -> None:
    program = (
        "import multiprocessing\n"
        "from tests.test_stop_signals import wait_as_a_worker\n"
        "worker = multiprocessing.get_context('fork').Process(target=wait_as_a_worker, args=(30,))\n"
        "worker.start()\n"
        "print(worker.pid, flush=True)\n"
        "time.sleep(0.3)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    pid = int(ended(program, status=-signal.SIGKILL).stdout)
    deadline = time.monotonic() + 10
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs signals that can be blocked")
def test_a_process_that_starts_with_signals_blocked_hears_them_as_a_worker() -> None:
    program = (
        "import os, signal, sys\n"
        "from miniclip import stop_signals as module\n"
        "print('begun', flush=True)\n"
        "sys.stdin.readline()\n"
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(7))\n"
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, module.SIGNALS)\n"
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with module.signals_masked(blocked=True):
        process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"

    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    process.communicate(b"\n")
    assert process.returncode == 7
