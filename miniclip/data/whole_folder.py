"""A folder of a cache that appears whole or not at all, and memory for what a disk has no room for."""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from miniclip.files import is_locked, locked

log = logging.getLogger(__name__)

LOCK = ".miniclip-fills-this"
"""Held in a folder by the process that fills it; no hidden folder of another program has it."""

QUIET_SECONDS = 60.0
"""A folder that no process holds is left alone for so long: some file systems have no locks."""


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` when the context ends well, else leaves no trace.

    Where another process was faster, its folder stays. What processes that were killed have left beside it
    is removed.

    Raises:
        OSError: when it cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with locked(partial / LOCK):
            yield partial
        (partial / LOCK).unlink(missing_ok=True)
        os.rename(partial, folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        was_faster = isinstance(error, OSError) and folder.is_dir()
        if not was_faster:
            raise


def sweep(parent: Path) -> None:
    """Remove the unfinished folders of processes that were killed."""
    for partial in parent.glob(f".*/{LOCK}"):
        left = partial.parent
        if not is_locked(partial) and _last_change(left) < time.time() - QUIET_SECONDS:
            log.info("%s, which a process that was killed has left, is removed.", left)
            shutil.rmtree(left, ignore_errors=True)


def fits_into_memory(num_bytes: float) -> bool:
    """Whether half of the memory that is free holds so much; no, where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return False
    return num_bytes <= int(kilobytes) * 1024 / 2


def _last_change(folder: Path) -> float:
    """When something in a folder was last written, in seconds of the clock."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except OSError:  # it is gone
        return time.time()
