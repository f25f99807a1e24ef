"""Locks on files, on every system; they end with the process that holds them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOOK_SECONDS = 0.2
"""Looking whether a lock is held takes it for a moment; so long two that look at once do not disturb."""


@contextmanager
def locked(path: Path, *, wait_seconds: float = LOOK_SECONDS) -> Iterator[bool]:
    """Hold a lock, as long as the context or the process lives. Yields whether no other process has it.

    A file system without locks refuses nothing.

    Args:
        path: the file to lock.
        wait_seconds: how long another process may go on holding it; below 0 without end.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=wait_seconds, poll_interval=0.02)
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError):
        yield True
        return
    try:
        yield True
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether another process holds a lock."""
    if not path.exists():
        return False
    with locked(path) as is_free:
        return not is_free
