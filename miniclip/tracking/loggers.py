"""Loggers: metrics.jsonl always, Weights & Biases as a view of it."""

import json
import logging
import math
import netrc
import os
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from miniclip.errors import SettingError

log = logging.getLogger(__name__)


class JsonlLogger:
    """Appends one JSON object a record to the run directory's metrics.jsonl.

    Args:
        every_steps: how often training steps are recorded; null records epochs only.
    """

    def __init__(self, *, every_steps: int | None):
        if every_steps is not None and every_steps < 1:
            raise SettingError("every_steps", every_steps, "must be at least 1, or null for none")
        self.every_steps = every_steps

    def start(self, metrics: Path, *, name: str, config: dict[str, Any]) -> None:
        """Begin to record.

        Args:
            metrics: the file to append to.
            name: the run's name, for views that show several.
            config: the resolved config as plain data.
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


class WandbLogger(JsonlLogger):
    """The same records in Weights & Biases, too.

    Args:
        project, entity: where the run appears; a null entity is the user's default.
        mode: "online", "offline" (files below the run directory, for `wandb sync`) or "disabled".
            Online without an API key becomes offline with a warning; nothing ever prompts.
        every_steps: see `JsonlLogger`.
    """

    def __init__(
        self,
        *,
        project: str,
        entity: str | None,
        mode: Literal["online", "offline", "disabled"],
        every_steps: int | None,
    ):
        super().__init__(every_steps=every_steps)
        self.project = project
        self.entity = entity
        self.mode = mode

    def start(self, metrics: Path, *, name: str, config: dict[str, Any]) -> None:
        super().start(metrics, name=name, config=config)
        import wandb

        mode = self.mode
        if mode == "online" and not _has_api_key():
            log.warning(
                "Weights & Biases has no API key (WANDB_API_KEY, or run: wandb login), so this run is "
                "kept offline. Upload it later with: wandb sync %s",
                metrics.parent / "wandb" / "offline-run-*",
            )
            mode = "offline"
        self.run = wandb.init(
            project=self.project,
            entity=self.entity,
            name=name,
            config=config,
            mode=mode,
            dir=metrics.parent,
            # the default would go on in the previous job's run of a sweep
            reinit="finish_previous",
            settings=wandb.Settings(silent=True),
        )
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def log(self, record: dict[str, Any]) -> None:
        super().log(record)
        self.run.log(record)

    def finish(self, *, failed: bool, summary: dict[str, Any], figures: dict[str, Path]) -> None:
        import wandb

        for key, path in figures.items():
            self.run.log({f"figures/{key}": wandb.Image(str(path))})
        self.run.summary.update(summary)
        self.run.finish(exit_code=1 if failed else 0)


def _has_api_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
