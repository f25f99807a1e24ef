"""Ctrl-C and termination, noticed between two steps so that no step is torn."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from miniclip.distributed import World


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop. `signum` says how: 2 for Ctrl-C, 15 for termination."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Interruption:
    """Remembers a signal until the loop asks.

    The first Ctrl-C waits for `check`; a second one stops at once, with a plain KeyboardInterrupt, for the
    step it tears must not be saved. In a thread other than the main one signals cannot be caught, and
    nothing changes.

    Args:
        world: the processes that stop together.
    """

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()
        self.signum: int | None = None

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come, to this process or to another."""
        if self.world.any(self.signum is not None):
            raise Interrupted(self.signum or signal.SIGTERM)

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch SIGINT and SIGTERM inside the context."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        signals = (signal.SIGINT, signal.SIGTERM)
        previous = {signum: signal.signal(signum, self._remember) for signum in signals}
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum


def ignore_in_worker(worker_id: int) -> None:
    """Data workers leave Ctrl-C to the main process, and end on termination."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
