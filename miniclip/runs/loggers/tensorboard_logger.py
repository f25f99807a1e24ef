"""TensorBoard as a view of metrics.jsonl."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from miniclip.errors import UserError
from miniclip.runs.loggers.jsonl_logger import RunFacts, View
from miniclip.runs.run_files import RunFiles


class TensorboardLogger(View):
    """The same records for TensorBoard, too, in the run directory's tensorboard/.

    Args:
        every_steps: see `JsonlLogger`.

    Raises:
        UserError: when tensorboard is missing.
    """

    def start(self, metrics: Path, run: RunFacts) -> None:
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError:
            raise UserError(
                'logger=tensorboard needs tensorboard: pip install -e ".[tensorboard]"'
            ) from None
        super().start(metrics, run)

    def _open(self, run: RunFacts) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(RunFiles(self.metrics.parent).tensorboard))
        self.writer.add_text("config", f"```\n{json.dumps(run.config, indent=2)}\n```")

    def _show(self, record: dict[str, Any]) -> None:
        for key, value in record.items():
            if isinstance(value, int | float) and key != "step":
                self.writer.add_scalar(key, value, record["step"])

    def _close(self, failed: bool, summary: dict[str, Any], figures: dict[str, Path]) -> None:
        for key, path in figures.items():
            with Image.open(path) as picture:
                self.writer.add_image(key, np.array(picture.convert("RGB")), dataformats="HWC")
        self.writer.close()
