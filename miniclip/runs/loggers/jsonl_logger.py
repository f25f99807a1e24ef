"""The logger that every run has: metrics.jsonl, and the views that each record is handed to."""

import json
import math
from pathlib import Path
from typing import Any

from miniclip.errors import at_least
from miniclip.files import append
from miniclip.runs.loggers.view import RunFacts, View


class JsonlLogger:
    """Appends one JSON object per record to the run directory's metrics.jsonl, and shows it in the views.

    Args:
        every_steps: how often training steps are recorded; null records epochs only.
        views: what shows the same records elsewhere, by names of their own.
    """

    def __init__(self, *, every_steps: int | None, **views: View):
        if every_steps is not None:
            at_least("every_steps", every_steps, 1, hint=", or null for none")
        self.every_steps = every_steps
        self.views = views

    def start(self, metrics: Path, run: RunFacts) -> None:
        """Begin to record.

        Args:
            metrics: the file to append to; what it holds already is an earlier part of the same run.
            run: what views that show several runs tell them apart by.
        """
        self.metrics = metrics
        for view in self.views.values():
            view.start(metrics.parent, run)

    def log(self, record: dict[str, Any]) -> None:
        """Write a record. It holds "step", and numbers; those not finite are written as null."""
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }

        # the file first: a view that goes on offline reads from it what it has missed
        append(self.metrics, json.dumps(finite))

        for view in self.views.values():
            view.log(record)

    def finish(self, *, failed: bool, summary: dict[str, Any], figures: dict[str, Path]) -> None:
        """End the recording; the run directory holds summary and figures already."""
        for view in self.views.values():
            view.finish(failed=failed, summary=summary, figures=figures)
