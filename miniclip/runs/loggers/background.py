"""A thread for calls that may wait for a network."""

import queue
import threading
from collections.abc import Callable


class Background:
    """Calls, one after another, in a thread that ends with the process."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def add(self, call: Callable[[], object]) -> None:
        """Have a call done after those before it, without waiting for it."""
        self.calls.put(call)

    def wait(self, seconds: float) -> bool:
        """Wait until all calls so far are done, but no longer. Returns whether they are."""
        # calls are done in order: with this one all before it are
        done = threading.Event()
        self.calls.put(done.set)
        return done.wait(seconds)

    def _work(self) -> None:
        while True:
            self.calls.get()()
