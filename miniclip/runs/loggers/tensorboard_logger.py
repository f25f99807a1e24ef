"""TensorBoard as a view of metrics.jsonl."""

import functools
import importlib.util
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from miniclip.errors import UserError
from miniclip.runs.loggers.view import RunFacts, View
from miniclip.runs.run_files import RunFiles


class TensorboardLogger(View):
    """The same records for TensorBoard, too, in the run directory's tensorboard/.

    Raises:
        UserError: when tensorboard is missing.
    """

    def __init__(self) -> None:
        super().__init__()
        # told before any data are read, and not as a view that fails while it runs
        if importlib.util.find_spec("tensorboard") is None:
            raise UserError('logger=tensorboard needs tensorboard: pip install -e ".[tensorboard]"')

    def _open(self, run: RunFacts) -> None:
        from torch.utils.tensorboard import SummaryWriter

        _tell_errors_once()
        self.writer = SummaryWriter(str(RunFiles(self.folder).tensorboard))
        self.writer.add_text("config", f"```\n{json.dumps(run.config, indent=2)}\n```")

    def _show(self, record: dict[str, Any]) -> None:
        # the step is the axis of all curves, and a text has none
        for key, value in record.items():
            if isinstance(value, int | float) and key != "step":
                self.writer.add_scalar(key, value, record["step"])

    def _close(self, failed: bool, summary: dict[str, Any], figures: dict[str, Path]) -> None:
        for key, path in figures.items():
            with Image.open(path) as image:
                pixels = np.array(image.convert("RGB"))  # (H, W, 3)
            self.writer.add_image(key, pixels, dataformats="HWC")

        self.writer.close()


@functools.cache
def _tell_errors_once() -> None:
    """Keep errors of TensorBoard's own thread from the console: the writer raises them again."""
    former = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if type(arguments.thread).__name__ != "_AsyncWriterThread":
            former(arguments)

    threading.excepthook = hook
