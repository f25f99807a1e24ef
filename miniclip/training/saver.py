"""Saving: one save after the other, here or in a thread; what one that fails means is decided here."""

import copy
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch import Tensor

from miniclip.disk_errors import DiskError, disk_errors_told

log = logging.getLogger(__name__)


class Saver:
    """Runs saves one after the other.

    Args:
        in_background: run them in a thread; there is one at a time, a second waits for the first.
        on_error: "raise" ends the run where a save fails, "warn" tells it and trains on.

    Attributes:
        failure: why the newest save is not whole; None if it is.
    """

    def __init__(self, *, in_background: bool, on_error: str):
        self.in_background = in_background
        self.on_error = on_error
        self.failure: DiskError | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._unfinished: Future[None] | None = None

    def start(self, save: Callable[[], None]) -> None:
        """Save, or begin to where it is done in the background.

        Raises:
            DiskError: when the system refuses this save, or did the one before.
        """
        self.wait()
        if self.in_background:
            self._unfinished = self._thread.submit(save)
        else:
            self._finish(save)

    def run_now(self, save: Callable[[], None]) -> None:
        """Save once all is saved that was begun; see `start`."""
        self.wait()
        self._finish(save)

    def wait(self) -> None:
        """Return when nothing is being saved any more.

        Raises:
            DiskError: when the system refused it.
        """
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            self._finish(unfinished.result)

    def _finish(self, save: Callable[[], None]) -> None:
        before, self.failure = self.failure, None
        try:
            with disk_errors_told():
                save()
        except DiskError as error:
            self.failure = error
            if self.on_error == "raise":
                raise
            if str(before) != str(error):
                log.warning("A checkpoint is not saved. %s Training goes on; the next tries again.", error)


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
