"""Saving: one save after the other, here or in a thread; what one that fails means is decided here."""

import copy
import errno
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from miniclip.errors import UserError, as_override
from miniclip.runs import RunDirectory

log = logging.getLogger(__name__)

ADVICE = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space",
    errno.EFBIG: "Raise the limit of file sizes (ulimit -f)",
    errno.ENOENT: "Its folder was removed or moved: put it back",
    errno.ENOTDIR: "Its folder was removed or moved: put it back",
    errno.EACCES: "Make its folder writable",
    errno.EPERM: "Make its folder writable",
    errno.EROFS: "Make its folder writable",
}
"""What to do about a reason of the system."""


class SaveFailed(UserError):
    """The system did not take a checkpoint; the one before it is untouched."""


class Saver:
    """Runs saves one after the other.

    Args:
        run: where the checkpoints lie.
        in_background: run them in a thread; there is one at a time, a second waits for the first.
        on_error: "raise" ends the run where a save fails, "warn" tells it and trains on.

    Attributes:
        failure: of the newest save; None if it is whole.
    """

    def __init__(self, run: RunDirectory, *, in_background: bool, on_error: str):
        self.run = run
        self.in_background = in_background
        self.on_error = on_error
        self.failure: SaveFailed | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._unfinished: tuple[Path, Future[None]] | None = None

    def start(self, path: Path, save: Callable[[], None]) -> None:
        """Save, or begin to where it is done in the background.

        Args:
            path: of the file, for what is told if it cannot be written.

        Raises:
            SaveFailed: when the system refuses this save, or did the one before.
        """
        self.wait()
        if self.in_background:
            self._unfinished = path, self._thread.submit(save)
        else:
            self._finish(path, save)

    def run_now(self, path: Path, save: Callable[[], None]) -> None:
        """Save once all is saved that was begun; see `start`."""
        self.wait()
        self._finish(path, save)

    def wait(self) -> None:
        """Return when nothing is being saved any more.

        Raises:
            SaveFailed: when the system refused it.
        """
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            path, future = unfinished
            self._finish(path, future.result)

    def _finish(self, path: Path, save: Callable[[], None]) -> None:
        try:
            save()
        except OSError as error:
            self._fail(path, error)
        else:
            self.failure = None

    def _fail(self, path: Path, error: OSError) -> None:
        before, self.failure = self.failure, SaveFailed(self._text(path, error))
        if self.on_error == "raise":
            raise self.failure from None
        if before is None or str(before) != str(self.failure):
            log.warning("%s Training goes on, and the next save tries again.", self.failure)

    def _text(self, path: Path, error: OSError) -> str:
        last = self.run.last_checkpoint
        sound = f"{last.name} is the one saved before" if last.is_file() else f"There is no {last.name} now"
        advice = ADVICE.get(error.errno or 0, "Find out why")
        again = as_override("trainer.resume", self.run.path)
        return (
            f"The checkpoint {path} cannot be saved: {error.strerror or error}. {sound}. {advice}; "
            f"a run that has ended goes on with {again}."
        )


def snapshot(value: Any) -> Any:
    """Tensors and plain data as they are now: tensors are copied to the host, containers anew."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        # with its type and, of a model's state, the versions of its modules
        copied = copy.copy(value)
        copied.update({key: snapshot(below) for key, below in value.items()})
        return copied
    if isinstance(value, list):
        return [snapshot(below) for below in value]
    if type(value) is tuple:
        return tuple(snapshot(below) for below in value)
    return value
