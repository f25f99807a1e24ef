"""Files of the next window, fetched while those of the current one are read."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

log = logging.getLogger(__name__)

Fetch = Callable[[int, Callable[[], bool]], None]
"""Brings a file, by its number, onto this machine, as long as it is told to go on."""


class Prefetcher:
    """Fetches files which are soon to be read, in a thread that lives as long as there are any.

    What goes wrong is told by whoever needs the file: that one tries again, and waits longer.

    Args:
        fetch: fetches a file.
    """

    def __init__(self, fetch: Fetch):
        self.fetch = fetch
        self._lock = threading.Lock()
        self._wanted: deque[int] = deque()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def want(self, files: Iterable[int]) -> None:
        """Fetch these next, in place of others that were not begun yet."""
        with self._lock:
            self._wanted = deque(files)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop at the next piece of a file, and wait until that is so."""
        with self._lock:
            self._is_closed = True
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while (file := self._next()) is not None:
            try:
                self.fetch(file, lambda: not self._is_closed)
            except Exception as error:
                log.debug("File %d is not fetched ahead: %s", file, error)

    def _next(self) -> int | None:
        """The next file; None ends the thread."""
        with self._lock:
            if self._wanted and not self._is_closed:
                return self._wanted.popleft()
            self._thread = None
            return None
