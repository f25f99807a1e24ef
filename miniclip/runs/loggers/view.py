"""Views of a run's records: Weights & Biases, TensorBoard, or one of your own."""

import functools
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger(__name__)


THREADS = ("ChkStopThr", "IntMsgThr", "NetStatThr", "_AsyncWriterThread")
"""Names of Weights & Biases' own threads, and the class of TensorBoard's."""


class RunFacts(NamedTuple):
    """What a run is called and belongs to.

    Attributes:
        name: for views that show several runs.
        config: the resolved config as plain data.
        group: the sweep it belongs to.
        tags: what to find it by.
    """

    name: str
    config: dict[str, Any]
    group: str | None = None
    tags: Sequence[str] = ()


class View(ABC):
    """Shows the records of metrics.jsonl elsewhere, too.

    What fails there is told once; the run and its other views go on.
    """

    def __init__(self) -> None:
        self._is_open = True

    def start(self, folder: Path, run: RunFacts) -> None:
        """Begin to show a run.

        Args:
            folder: the run directory.
            run: what views that show several runs tell them apart by.
        """
        self.folder = folder
        self._attempt(lambda: self._open(run))

    def log(self, record: dict[str, Any]) -> None:
        """Show a record, which metrics.jsonl holds already."""
        self._attempt(lambda: self._show(record))

    def finish(self, *, failed: bool, summary: dict[str, Any], figures: dict[str, Path]) -> None:
        """Show how the run ended; its directory holds summary and figures already."""
        self._attempt(lambda: self._close(failed, summary, figures))

    def _attempt(self, action: Callable[[], None]) -> None:
        """Do something of the view's, unless it has failed before."""
        if not self._is_open:
            return

        try:
            action()
        except Exception as error:  # whatever it is, no training may end by it
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._is_open = False
        log.warning(
            "%s shows no more of this run (%s: %s). It goes on, and metrics.jsonl holds everything.",
            type(self).__name__.removesuffix("Logger"),
            type(error).__name__,
            str(error).partition("\n")[0],
        )

    @abstractmethod
    def _open(self, run: RunFacts) -> None:
        """Open what shows the run."""

    @abstractmethod
    def _show(self, record: dict[str, Any]) -> None:
        """Show a record; it may hold numbers that are not finite."""

    @abstractmethod
    def _close(self, failed: bool, summary: dict[str, Any], figures: dict[str, Path]) -> None:
        """Show the run's end and close."""


@functools.cache
def tell_errors_once() -> None:
    """Keep errors of a tracker's own threads from the console: the view's next call raises them, too."""
    former = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        thread = arguments.thread
        if thread is None or not {thread.name, type(thread).__name__} & set(THREADS):
            former(arguments)

    threading.excepthook = hook
