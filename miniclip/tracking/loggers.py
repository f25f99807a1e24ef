"""Loggers: metrics.jsonl always, Weights & Biases and TensorBoard as views of it."""

import json
import logging
import math
import netrc
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlparse

import numpy as np
from PIL import Image

from miniclip.errors import SettingError, UserError
from miniclip.tracking.run_directory import WANDB_ID

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


class WandbLogger(JsonlLogger):
    """The same records in Weights & Biases, too; one run there for each run directory.

    A resumed run goes on under its id, which `wandb_id` in the run directory keeps. Offline nothing can be
    resumed (wandb issue 3841): there, and where the server does not know the run, the new files hold the
    whole run, written anew from metrics.jsonl, and take the place of the former ones when all are synced in
    their order.

    Args:
        project, entity: where the run appears; a null entity is the user's default.
        mode: "online", which the environment's WANDB_MODE can change, "offline" (files below the run
            directory, for `wandb sync`) or "disabled". Online without an API key becomes offline with a
            warning; nothing ever prompts.
        job_type: a word that tells kinds of runs apart in the project.
        log_model: keep the best checkpoint as an artifact.
        every_steps: see `JsonlLogger`.
    """

    def __init__(
        self,
        *,
        project: str,
        entity: str | None,
        mode: Literal["online", "offline", "disabled"],
        job_type: str,
        log_model: bool,
        every_steps: int | None,
    ):
        super().__init__(every_steps=every_steps)
        self.project = project
        self.entity = entity
        self.mode = mode
        self.job_type = job_type
        self.log_model = log_model

    def start(self, metrics: Path, run: RunFacts) -> None:
        super().start(metrics, run)
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "online") if self.mode == "online" else self.mode
        if mode == "online" and not _has_api_key():
            log.warning(
                "Weights & Biases has no API key (WANDB_API_KEY, or run: wandb login), so this run is "
                "kept offline. Upload it later with: wandb sync %s",
                metrics.parent / "wandb" / "offline-run-*",
            )
            mode = "offline"
        kept_id = metrics.parent / WANDB_ID
        if not kept_id.exists():
            kept_id.write_text(_assigned_id() or secrets.token_hex(4), encoding="utf-8")
        self.run = wandb.init(
            project=self.project,
            entity=self.entity,
            id=kept_id.read_text(encoding="utf-8").strip(),
            resume="allow" if mode == "online" else None,
            name=run.name,
            group=run.group,
            job_type=self.job_type,
            tags=list(run.tags),
            config=run.config,
            mode=mode,
            dir=metrics.parent,
            # the default would go on in the previous job's run of a sweep
            reinit="finish_previous",
            settings=wandb.Settings(silent=True),
        )
        self._lacks_history = not self.run.resumed
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")
        self.run.define_metric("val/loss", step_metric="step", summary="min")
        for key in ("rsum", *(f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10))):
            self.run.define_metric(f"val/{key}", step_metric="step", summary="max")

    def log(self, record: dict[str, Any]) -> None:
        if self._lacks_history and self.metrics.is_file():
            with open(self.metrics, encoding="utf-8") as file:
                for line in file:
                    self.run.log(json.loads(line))
        self._lacks_history = False
        super().log(record)
        self.run.log(record)

    def finish(self, *, failed: bool, summary: dict[str, Any], figures: dict[str, Path]) -> None:
        import wandb

        for key, path in figures.items():
            self.run.log({f"figures/{key}": wandb.Image(str(path))})
        rows = [
            [record.get("protocol", part), title]
            + [record[f"{part}/{way}_{metric}"] for metric in ("r1", "r5", "r10", "median_rank")]
            for part, record in (("val", summary.get("best")), ("test", summary.get("test")))
            for way, title in (("i2t", "image to text"), ("t2i", "text to image"))
            if record
        ]
        if rows:
            header: list[str | int] = ["measured on", "direction", "R@1", "R@5", "R@10", "median rank"]
            self.run.log({"retrieval": wandb.Table(columns=header, data=rows)})
        checkpoint = self.metrics.parent / "checkpoints" / "best.pt"
        if self.log_model and checkpoint.is_file():
            artifact = wandb.Artifact(f"checkpoint-{self.run.id}", type="model")
            artifact.add_file(str(checkpoint))
            self.run.log_artifact(artifact)
        self.run.summary.update(summary)
        self.run.finish(exit_code=1 if failed else 0)


class TensorboardLogger(JsonlLogger):
    """The same records for TensorBoard, too, in the run directory's tensorboard/.

    Args:
        every_steps: see `JsonlLogger`.

    Raises:
        UserError: when tensorboard is missing.
    """

    def start(self, metrics: Path, run: RunFacts) -> None:
        super().start(metrics, run)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                'logger=tensorboard needs tensorboard: pip install -e ".[tensorboard]"'
            ) from None
        self.writer = SummaryWriter(str(metrics.parent / "tensorboard"))
        self.writer.add_text("config", f"```\n{json.dumps(run.config, indent=2)}\n```")

    def log(self, record: dict[str, Any]) -> None:
        super().log(record)
        for key, value in record.items():
            if isinstance(value, int | float) and key != "step":
                self.writer.add_scalar(key, value, record["step"])

    def finish(self, *, failed: bool, summary: dict[str, Any], figures: dict[str, Path]) -> None:
        for key, path in figures.items():
            with Image.open(path) as picture:
                self.writer.add_image(key, np.array(picture.convert("RGB")), dataformats="HWC")
        self.writer.close()


def _assigned_id() -> str | None:
    """The run id that `wandb agent` gives a job of a W&B sweep."""
    return os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None


def _has_api_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
