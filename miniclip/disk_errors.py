"""Errors of disks and folders: full, read-only, vanished, limited; each is one line with a way out."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeGuard

from miniclip.errors import UserError

OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
"""What the system says of a disk that takes no more. A library may say something else in its place."""

OF_CONNECTIONS = (BrokenPipeError, ConnectionError, TimeoutError)
"""Errors of the system that are no files'."""

WAYS_OUT = {
    errno.ENOSPC: "Make room on that disk",
    errno.EDQUOT: "Make room within your quota there",
    errno.EFBIG: "Lift the limit on the size of files (ulimit -f)",
    errno.EROFS: "Make it writable, or choose another place",
    errno.EACCES: "Get the right to it, or choose another place",
    errno.EPERM: "Get the right to it, or choose another place",
    errno.EMFILE: "Lift the limit on open files (ulimit -n)",
    errno.EIO: "Look after that disk, or choose another one",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ENOTDIR: "Choose a place that is a folder",
    errno.EEXIST: "Choose a place that is a folder",
    errno.EISDIR: "Choose a place that is no folder",
}


class DiskError(UserError):
    """The system refuses a file; the text names it, the system's reason and what to do.

    Attributes:
        cause: what the system said.
        takes_no_more: whether the disk is what failed, so that the same would succeed with room on it.
    """

    def __init__(self, cause: OSError, advice: str = "", *, unnamed: str = "A file"):
        super().__init__(f"{_sentence(cause, unnamed)} {advice}".strip())
        self.cause = cause
        self.takes_no_more = cause.errno in OF_WRITING


@contextmanager
def disk_errors_told(advice: str = "", *, unnamed: str = "A file") -> Iterator[None]:
    """Tell the system's errors about files in one line, also where a library has hidden them.

    Args:
        advice: a sentence that goes behind the line.
        unnamed: what a file is called that the system does not name.

    Raises:
        DiskError: for what the system refused.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause = disk_error_behind(error)
        if cause is None:
            raise
        raise DiskError(cause, advice, unnamed=unnamed) from error


def disk_error_behind(error: BaseException) -> OSError | None:
    """What the system said of a file, if that is what has gone wrong; None for all other errors.

    A writer that fails as it cleans up (torch: "unexpected pos") has the system's error in its context.
    """
    if isinstance(error, UserError):
        return error.cause if isinstance(error, DiskError) else None
    if _is_of_a_file(error):
        return error

    behind = error.__cause__ or error.__context__
    while behind is not None:
        if _is_of_a_file(behind) and behind.errno in OF_WRITING:
            return behind
        behind = behind.__cause__ or behind.__context__
    return None


@contextmanager
def naming(path: Path, *others: Path) -> Iterator[None]:
    """Give the system's errors the name of a file, which those of writing and of closing lack.

    Args:
        others: names that stand for it while it is written.
    """
    try:
        yield
    except Exception as error:
        cause = disk_error_behind(error)
        names = (None, *map(str, others))
        if cause is not None and cause.filename in names:
            cause.filename, cause.filename2 = str(path), None
        raise


def _is_of_a_file(error: BaseException) -> TypeGuard[OSError]:
    return isinstance(error, OSError) and bool(error.errno) and not isinstance(error, OF_CONNECTIONS)


def _sentence(cause: OSError, unnamed: str) -> str:
    """The file, the reason, the way out."""
    if cause.errno == errno.ENOENT and not _has_current_folder():
        return "The current folder is gone. Change into another one (cd)."

    path = unnamed if cause.filename is None else os.fsdecode(cause.filename)
    reason = (cause.strerror or str(cause)).lower()
    return f"{path}: {reason}. {_way_out(cause)}."


def _way_out(cause: OSError) -> str:
    if cause.errno == errno.ENOENT and cause.filename is not None:
        folder = Path(os.fsdecode(cause.filename)).parent
        return "Look for it" if folder.is_dir() else f"Its folder is gone: {folder}"
    return WAYS_OUT.get(cause.errno or 0, "See to that file, or choose another place")


def _has_current_folder() -> bool:
    try:
        return bool(os.getcwd())
    except FileNotFoundError:
        return False
