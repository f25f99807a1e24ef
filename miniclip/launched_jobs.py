"""Jobs in worker processes of a launcher: they stop when it is asked to, and end when it is gone.

The launcher's process alone hears a signal that asks to stop, also one to its whole process group, and
tells the jobs in flight. It ends when they have saved. As each worker is connected with it, they notice
when it is killed, too.

Imports little: a worker follows its launcher before it imports what takes long.
"""

import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing.connection import Client, Connection, Listener

from miniclip.stop_signals import Interrupted, signals_masked, stop_signals

LAUNCHER = "MINICLIP_LAUNCHER"
"""Variable of the environment by which workers find their launcher: its process id, a key, an address."""


class Launcher:
    """What the launcher's process has for its workers: it tells them of a signal.

    They find it by the environment, from here to the end of the process.
    """

    def __init__(self) -> None:
        key = os.urandom(16)
        self._listener = _listener(key)
        self._workers: list[Connection] = []
        os.environ[LAUNCHER] = json.dumps([os.getpid(), key.hex(), self._listener.address])
        threading.Thread(target=self._accept, daemon=True).start()

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tell the workers of a signal that comes inside the context, and raise it at the end.

        Processes that are started inside, in this thread, hear no signal to the process group: a helper of
        submitit's would kill its job on Ctrl-C, and joblib all jobs when one idle worker dies.
        """
        # blocked in this thread, signals come in by the one that accepts
        with stop_signals.deferred(self._tell), signals_masked(blocked=True):
            try:
                yield
            except Exception:
                stop_signals.check()  # what fails after a signal does so on its account
                raise

    def _accept(self) -> None:
        while True:
            with suppress(Exception):  # of a worker that ends as it connects
                self._workers.append(self._listener.accept())
                if stop_signals.signum is not None:
                    self._tell(stop_signals.signum)

    def _tell(self, signum: int) -> None:
        for worker in list(self._workers):
            with suppress(OSError):  # it has ended
                worker.send_bytes(str(signum).encode())


@cache
def launcher_of_this_process() -> Launcher:
    """The launcher that this process is, from the first call on."""
    return Launcher()


def is_worker() -> bool:
    """Whether this process has been started by a launcher that tells its workers of signals."""
    return LAUNCHER in os.environ and json.loads(os.environ[LAUNCHER])[0] != os.getpid()


def result_in_worker(job: Callable[[], float]) -> float:
    """What a job in a worker returns; NaN if a signal to it, or to the launcher, has stopped it.

    An exception would reach joblib, which then kills the jobs beside it.
    """
    try:
        with _worker_of_this_process().heeding():
            return job()
    except Interrupted:
        return math.nan


class Worker:
    """What a worker has of its launcher: it hears of signals, and ends when the launcher is gone."""

    def __init__(self) -> None:
        _, key, address = json.loads(os.environ[LAUNCHER])
        place = address if isinstance(address, str) else tuple(address)  # a path, or a host and a port
        self._launcher = Client(place, authkey=bytes.fromhex(key))
        self._told: int | None = None
        self._is_in_job = False
        self._lock = threading.Lock()
        self._idle = threading.Event()
        threading.Thread(target=self._follow, daemon=True).start()

    @contextmanager
    def heeding(self) -> Iterator[None]:
        """Heed signals to this process and to the launcher inside the context, which is of a job.

        Raises:
            Interrupted: at once if there was one before.
        """
        with stop_signals.caught(), stop_signals.deferred(), signals_masked(blocked=False):
            self._begin_job()
            try:
                stop_signals.check()
                yield
            finally:
                self._end_job()

    def _begin_job(self) -> None:
        with self._lock:
            self._is_in_job = True
            self._idle.clear()
            if self._told is not None:
                os.kill(os.getpid(), self._told)

    def _end_job(self) -> None:
        with self._lock:
            self._is_in_job = False
            self._idle.set()

    def _follow(self) -> None:
        """Wait for a signal to the launcher, then for its end, and end this process when its job has."""
        with suppress(EOFError, OSError):
            told = int(self._launcher.recv_bytes())
            # one to the process group has come already, and a second would end the job at once
            self._stop_job(told, is_second=False)
            while True:
                self._launcher.recv_bytes()

        self._stop_job(signal.SIGTERM, is_second=True)
        self._idle.wait()
        os._exit(0)

    def _stop_job(self, signum: int, *, is_second: bool) -> None:
        """Signal this process if it is in a job, and each later job as it begins.

        Args:
            is_second: also where a signal has come already.
        """
        with self._lock:
            self._told = signum
            if self._is_in_job and (is_second or stop_signals.signum is None):
                os.kill(os.getpid(), signum)


@cache
def _worker_of_this_process() -> Worker:
    try:
        return Worker()
    except OSError:  # the launcher is gone
        raise Interrupted(signal.SIGTERM) from None


def _listener(key: bytes) -> Listener:
    """A socket that workers on this machine find, and nobody uses who has not the key."""
    with suppress(OSError):  # the folder of temporary files has too long a name for a socket
        return Listener(authkey=key)
    return Listener(("127.0.0.1", 0), authkey=key)
