"""TensorBoard as a view of metrics.jsonl."""

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from miniclip.errors import UserError
from miniclip.runs.loggers.view import RunFacts, View, tell_errors_once
from miniclip.runs.run_files import RunFiles

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorboardLogger(View):
    """The same records for TensorBoard, too, in the run directory's tensorboard/.

    A run that goes on from another directory, or had no TensorBoard until now, is shown from its start.

    Raises:
        UserError: when tensorboard is missing.
    """

    def __init__(self) -> None:
        super().__init__()
        # told before any data are read, and not as a view that fails while it runs
        if importlib.util.find_spec("tensorboard") is None:
            raise UserError('logger=tensorboard needs tensorboard: pip install -e ".[tensorboard]"')

    def _open(self, run: RunFacts) -> None:
        tell_errors_once()
        self.writer: SummaryWriter | None = None
        self.config = run.config

    def _write_from(self, step: int) -> "SummaryWriter":
        """Begin to write; what an earlier try of the run wrote from this step on is no longer shown."""
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(RunFiles(self.folder).tensorboard), purge_step=step)
        writer.add_text("config", f"```\n{json.dumps(self.config, indent=2)}\n```")
        return writer

    def _show(self, record: dict[str, Any]) -> None:
        if self.writer is None:
            self.writer = self._begin(record)
        self._add(self.writer, record)

    def _begin(self, record: dict[str, Any]) -> "SummaryWriter":
        """Begin to write where a first record comes, behind those that metrics.jsonl holds already."""
        run = RunFiles(self.folder)
        if run.tensorboard.is_dir():
            # a validation comes behind the record of its step
            return self._write_from(record["step"] + ("val/rsum" in record))

        earlier = run.read_metrics()[:-1]  # the last one is this record
        writer = self._write_from(0)
        for each in earlier:
            self._add(writer, each)
        return writer

    def _add(self, writer: "SummaryWriter", record: dict[str, Any]) -> None:
        # the step is the axis of all curves, and a text has none
        for key, value in record.items():
            if isinstance(value, int | float) and key != "step":
                writer.add_scalar(key, value, record["step"])

    def _close(self, failed: bool, summary: dict[str, Any], figures: dict[str, Path]) -> None:
        if self.writer is None:
            return
        for key, path in figures.items():
            with Image.open(path) as image:
                pixels = np.array(image.convert("RGB"))  # (H, W, 3)
            self.writer.add_image(key, pixels, dataformats="HWC")

        self.writer.close()
