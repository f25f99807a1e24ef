"""The logger that every run has, metrics.jsonl, and what shows its records elsewhere."""

import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from miniclip.errors import SettingError

log = logging.getLogger(__name__)


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


class JsonlLogger:
    """Appends one JSON object a record to the run directory's metrics.jsonl.

    Args:
        every_steps: how often training steps are recorded; null records epochs only.
    """

    def __init__(self, *, every_steps: int | None):
        if every_steps is not None and every_steps < 1:
            raise SettingError("every_steps", every_steps, "must be at least 1, or null for none")
        self.every_steps = every_steps

    def start(self, metrics: Path, run: RunFacts) -> None:
        """Begin to record.

        Args:
            metrics: the file to append to; what it holds already is an earlier part of the same run.
            run: what views that show several runs tell them apart by.
        """
        self.metrics = metrics

    def log(self, record: dict[str, Any]) -> None:
        """Write a record. It holds "step", and numbers; those not finite are written as null."""
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(finite) + "\n")

    def finish(self, *, failed: bool, summary: dict[str, Any], figures: dict[str, Path]) -> None:
        """End the recording; the run directory holds summary and figures already."""

    def _history(self) -> list[dict[str, Any]]:
        """The records that are on disk, of an earlier part of the run as well."""
        if not self.metrics.is_file():
            return []
        with open(self.metrics, encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.endswith("\n")]


class View(JsonlLogger):
    """Shows the same records elsewhere, too. What fails there is told once, and the run goes on.

    Args:
        every_steps: see `JsonlLogger`.
    """

    def __init__(self, *, every_steps: int | None):
        super().__init__(every_steps=every_steps)
        self._is_open = True

    def start(self, metrics: Path, run: RunFacts) -> None:
        super().start(metrics, run)
        self._attempt(lambda: self._open(run))

    def log(self, record: dict[str, Any]) -> None:
        super().log(record)
        self._attempt(lambda: self._show(record))

    def finish(self, *, failed: bool, summary: dict[str, Any], figures: dict[str, Path]) -> None:
        self._attempt(lambda: self._close(failed, summary, figures))

    def _attempt(self, action: Callable[[], None]) -> None:
        if not self._is_open:
            return
        try:
            action()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._is_open = False
        log.warning(
            "%s shows no more of this run (%s: %s). It goes on, and metrics.jsonl holds everything.",
            type(self).__name__.removesuffix("Logger"),
            type(error).__name__,
            str(error).partition("\n")[0],
        )

    def _open(self, run: RunFacts) -> None:
        raise NotImplementedError

    def _show(self, record: dict[str, Any]) -> None:
        raise NotImplementedError

    def _close(self, failed: bool, summary: dict[str, Any], figures: dict[str, Path]) -> None:
        raise NotImplementedError
