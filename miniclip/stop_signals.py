"""Signals that ask this process to stop, and when each phase of a run heeds them.

Imports nothing but the standard library: a command takes them over before it imports what takes long.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from types import FrameType
from typing import Any

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)
"""Ctrl-C, termination, Slurm's warning, a terminal that closes; Windows lacks the last two."""

TWICE_SECONDS = 0.5
"""Signals that come so soon after the first are the same request: `timeout` and srun send theirs twice."""

LOOK_SECONDS = 0.5
"""How often a worker process looks whether the main process is still there."""


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop. `signum` says how: 2 for Ctrl-C, 15 for termination."""

    def __init__(self, signum: int):
        super().__init__(signal_name(signum))
        self.signum = signum

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[int]]:
        return Interrupted, (self.signum,)


class Heed(Enum):
    """What the first signal does.

    END: end the process at once, as nothing is there to be saved.
    RAISE: raise `Interrupted` where the process stands.
    WAIT: nothing, until `StopSignals.check` raises it.
    """

    END = auto()
    RAISE = auto()
    WAIT = auto()


class StopSignals:
    """The signals that ask this process to stop.

    What the first one does depends on the phase, see `Heed`: it ends the process outside of `raised` and
    `deferred`. A second one ends the process at once in all of them. Forks of the process heed none: it
    ends them.

    In a thread other than the main one signals cannot be caught, and nothing changes. Signals that are
    ignored stay so: those of `nohup`, and of jobs in the background of a script.

    Attributes:
        signum: the first signal that came; None before.
        is_noticed: whether it was raised.
        exit_status: of a process that a signal ends, called with the signal.
        says_stopped: whether it prints so when it is ended at once.
    """

    def __init__(self) -> None:
        self.says_stopped = True
        self._pid: int | None = None
        self._former: dict[int, Any] = {}
        self._reset()

    def _reset(self) -> None:
        self.signum: int | None = None
        self.is_noticed = False
        self.exit_status = shell_status
        self._heed = Heed.END
        self._last_words: Callable[[int], object] | None = None
        self._pass_on: Callable[[int], object] | None = None
        self._came_at = 0.0

    def take_over(self) -> None:
        """Catch the signals from here to the end of the process."""
        if self._pid == os.getpid() or threading.current_thread() is not threading.main_thread():
            return

        self._reset()
        self._pid, self._former = os.getpid(), {}
        for signum in (*SIGNALS, *_signals_of_launcher()):
            former = signal.getsignal(signum)
            if former not in (signal.SIG_IGN, None):  # None: not Python's, and could not be given back
                self._former[signum] = former
                signal.signal(signum, self._receive)

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch the signals inside the context, if nobody does so already."""
        if self._pid == os.getpid():
            yield
            return

        self.take_over()
        try:
            yield
        finally:
            for signum, handler in self._former.items():
                signal.signal(signum, handler)
            self._pid, self._former = None, {}
            self._reset()

    @contextmanager
    def raised(self, last_words: Callable[[int], object]) -> Iterator[None]:
        """Raise `Interrupted` inside the context wherever the process stands when a signal comes.

        Args:
            last_words: called with the signal before a second one ends the process.
        """
        former, self._last_words = self._last_words, last_words
        try:
            with self._heeding(Heed.RAISE):
                self.check()  # one may have waited
                yield
        finally:
            self._last_words = former

    @contextmanager
    def deferred(self, pass_on: Callable[[int], object] | None = None) -> Iterator[None]:
        """Let a signal wait inside the context until `check` is called, or the context ends well.

        Args:
            pass_on: called with the signal as it comes.
        """
        former, self._pass_on = self._pass_on, pass_on
        try:
            with self._heeding(Heed.WAIT):
                yield
        finally:
            self._pass_on = former
        self.check()

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self.signum is not None:
            self.is_noticed = True
            raise Interrupted(self.signum)

    def hand_over(self, signum: int) -> None:
        """Do what a launcher does on its own signal, as submitit, which queues its job again."""
        if signum in _signals_of_launcher():
            self._former[signum](signum, None)

    @contextmanager
    def _heeding(self, heed: Heed) -> Iterator[None]:
        former, self._heed = self._heed, heed
        try:
            yield
        finally:
            self._heed = former

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a fork
            return

        now = time.monotonic()
        is_first = self.signum is None
        if not is_first and now - self._came_at < TWICE_SECONDS:
            return
        if not is_first or self._heed is Heed.END:
            self._end(signum)

        self.signum, self._came_at = signum, now
        if self._pass_on is not None:
            self._pass_on(signum)
        if self._heed is Heed.RAISE:
            self.check()

    def _end(self, signum: int) -> None:
        """End the process here and now: an exception could be swallowed, or tear what it passes."""
        with suppress(Exception):
            if self._last_words is not None:
                self._last_words(signum)
        with suppress(Exception):
            if self.says_stopped:
                print("Stopped.", file=sys.stderr, flush=True)
        with suppress(Exception):
            sys.stdout.flush()

        status = shell_status(signum)
        with suppress(Exception):
            status = self.exit_status(signum)
        os._exit(status)


def shell_status(signum: int) -> int:
    """The exit status by which a shell tells a signal: 143 for SIGTERM."""
    return 128 + signum


def signal_name(signum: int) -> str:
    """SIGTERM of 15."""
    return signal.Signals(signum).name


@contextmanager
def signals_masked(*, blocked: bool) -> Iterator[None]:
    """Block or unblock the signals for this thread inside the context, and for processes that it starts.

    Blocked, they come in by other threads of the process, or wait. Windows has nothing of the kind.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return

    former = signal.pthread_sigmask(signal.SIG_BLOCK if blocked else signal.SIG_UNBLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def leave_to_main_process(worker_id: int = 0) -> None:
    """Make this process, a worker, heed no signal that asks it to stop, and end with the main process.

    A group of processes is signaled as one by shells, `timeout` and clusters; without its workers the main
    process could not finish its step. A second SIGTERM ends it.
    """
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)

    first_came_at: float | None = None

    def end_at_the_second(signum: int, frame: FrameType | None) -> None:
        nonlocal first_came_at
        now = time.monotonic()
        if first_came_at is None:
            first_came_at = now
        elif now - first_came_at > TWICE_SECONDS:
            os._exit(0)  # torch would raise an error on any other

    signal.signal(signal.SIGTERM, end_at_the_second)
    if hasattr(signal, "pthread_sigmask"):  # it may have begun with them blocked
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_main_process, daemon=True).start()


def _end_with_main_process() -> None:
    """Wait until the main process is gone, whatever the main thread is doing, and end this one."""
    main = multiprocessing.parent_process()
    assert main is not None

    if os.getppid() == main.pid:
        while os.getppid() == main.pid:
            time.sleep(LOOK_SECONDS)
    else:  # it has a server that forks
        main.join()
    os._exit(0)


def _signals_of_launcher() -> tuple[int, ...]:
    """The signal by which submitit learns that a job's time is up, in a job of its own."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return ()
    name = "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
    return (getattr(signal, name),)


stop_signals = StopSignals()
"""Those of this process: a handler belongs to the whole of it."""
