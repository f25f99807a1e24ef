"""Loggers: metrics.jsonl always, Weights & Biases and TensorBoard as views of it."""

import base64
import json
import logging
import math
import netrc
import os
import queue
import secrets
import shlex
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import ParseResult, urlparse

import numpy as np
from PIL import Image

from miniclip.errors import SettingError, UserError
from miniclip.files import write_text
from miniclip.runs.run_files import RunFiles

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0
"""How long a run waits for Weights & Biases, all its waits together."""

START_SECONDS = 2.0
"""The most of it that the start takes; the run's thread for W&B may take longer."""

LOCAL_SECONDS = 2.5
"""What the end keeps of it, to write the run's files where the server has not answered until then."""

PROBE_SECONDS = 4.0
INIT_SECONDS = 20.0
"""A slow server, which answers each of several requests after two seconds, is still waited for."""

UPLOAD_SECONDS = 600.0
"""The wait at the end where a checkpoint is to be uploaded."""


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


class WandbLogger(View):
    """The same records in Weights & Biases, too; one run there for each run directory.

    All calls run in a thread of their own: the run waits for the server at its start and at its end, five
    seconds in all, and never in between. Where the server cannot be reached or refuses, or has not answered
    by the end, the run is kept offline.

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
        log_model: keep the best checkpoint as an artifact; its upload may take ten minutes at the end.
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
        self.patience = PATIENCE_SECONDS
        self._is_second_try = False
        self._is_reaching = False
        self._is_online = False
        self._is_cut_off = False
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def start(self, metrics: Path, run: RunFacts) -> None:
        self.background = Background()
        super().start(metrics, run)
        self._wait(START_SECONDS)

    def finish(self, *, failed: bool, summary: dict[str, Any], figures: dict[str, Path]) -> None:
        super().finish(failed=failed, summary=summary, figures=figures)
        self._wait(self.patience - LOCAL_SECONDS)
        if self._is_reaching:
            self._cut_off()

        if self.log_model:
            self.patience = UPLOAD_SECONDS
        if not self._is_online:  # writing files waits for no server
            self.patience = PATIENCE_SECONDS
        if not self._wait(self.patience) and self._is_open:
            self._leave()

    def _wait(self, seconds: float) -> bool:
        """Wait for the thread, and take the time off the run's patience. Returns whether all is done."""
        started = time.monotonic()
        is_done = self.background.wait(seconds)
        self.patience = max(0.0, self.patience - (time.monotonic() - started))
        return is_done

    def _cut_off(self) -> None:
        """Have the thread wait for the server no longer: it writes the run's files offline instead."""
        self._is_cut_off = True
        self._answers.put("does not answer")

        def end_reaching() -> None:
            while self._is_reaching:  # W&B's process may be about to start
                _kill_service()
                time.sleep(0.1)

        threading.Thread(target=end_reaching, daemon=True).start()

    def _leave(self) -> None:
        """Tell what is left to do, and let W&B's process end by itself: Python would else wait for it."""
        self._is_open = False
        folder = shlex.quote(str(self.folder / "wandb"))
        log.warning("Weights & Biases has not taken all of this run: wandb sync %s/*run-*", folder)
        threading.Thread(target=self._end_service, daemon=True).start()

    def _attempt(self, action: Callable[[], None]) -> None:
        self.background.add(lambda: super(WandbLogger, self)._attempt(action))

    def _open(self, run: RunFacts) -> None:
        self.facts = run
        self.folder = self.metrics.parent
        mode = os.environ.get("WANDB_MODE", "online") if self.mode == "online" else self.mode
        self._is_reaching = mode == "online"
        reason = _why_offline(self._answers) if mode == "online" else ""
        if reason:
            log.warning("%s, so this run is kept offline. %s", reason, self._how_to_sync())
            self._is_reaching = False
            mode = "offline"

        try:
            self._init(mode)
        except Exception as error:
            if mode != "online":
                raise
            self._is_reaching = False
            self._go_on_offline(error)
        else:
            self._is_online = mode == "online"
        self._is_reaching = False

    def _init(self, mode: Any) -> None:
        import wandb

        _end_telemetry()
        kept_id = RunFiles(self.folder).wandb_id
        if not kept_id.exists():
            write_text(kept_id, _assigned_id() or secrets.token_hex(4))
        self.run = wandb.init(
            project=self.project,
            entity=self.entity,
            id=kept_id.read_text(encoding="utf-8").strip(),
            resume="allow" if mode == "online" else None,
            name=os.environ.get("WANDB_NAME") or self.facts.name,
            group=self.facts.group,
            job_type=self.job_type,
            tags=list(self.facts.tags),
            config=self.facts.config,
            mode=mode,
            dir=self.folder,
            # the default would go on in the previous job's run of a sweep
            reinit="finish_previous",
            settings=wandb.Settings(
                silent=True,
                init_timeout=INIT_SECONDS,
                finish_timeout=UPLOAD_SECONDS if self.log_model else PATIENCE_SECONDS,
            ),
        )
        self._lacks_history = not self.run.resumed
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")
        self.run.define_metric("val/loss", step_metric="step", summary="min")
        for key in ("rsum", *(f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10))):
            self.run.define_metric(f"val/{key}", step_metric="step", summary="max")

    def _show(self, record: dict[str, Any]) -> None:
        try:
            self._write(record)
        except Exception as error:
            if self._is_second_try:
                raise
            self._go_on_offline(error)
            self._write(record)

    def _write(self, record: dict[str, Any]) -> None:
        if self._lacks_history:
            for earlier in self._history():
                if earlier["step"] <= record["step"] and earlier != record:
                    self.run.log(earlier)
        self._lacks_history = False
        self.run.log(record)

    def _go_on_offline(self, error: Exception) -> None:
        """Write new files, of the whole run, with a new process of W&B's; the former one is lost."""
        text = "no answer in time" if self._is_cut_off else str(error).partition("\n")[0]
        log.warning("Weights & Biases fails (%s): kept offline from here. %s", text, self._how_to_sync())
        self._is_second_try = True
        self._is_online = False
        self._end_service()
        self._init("offline")

    def _end_service(self) -> None:
        """End W&B's own process here, for which Python would else wait at its end."""
        import wandb

        with suppress(Exception):  # it may be gone
            wandb.teardown()

    def _give_up(self, error: Exception) -> None:
        if self._is_open:  # else the run has left, and has told so
            super()._give_up(error)
        self._end_service()

    def _how_to_sync(self) -> str:
        return f"Upload it later with: wandb sync {shlex.quote(str(self.folder / 'wandb'))}/offline-run-*"

    def _close(self, failed: bool, summary: dict[str, Any], figures: dict[str, Path]) -> None:
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
        checkpoint = RunFiles(self.folder).best_checkpoint
        if self.log_model and checkpoint.is_file():
            artifact = wandb.Artifact(f"checkpoint-{self.run.id}", type="model")
            artifact.add_file(str(checkpoint))
            self.run.log_artifact(artifact)
        self.run.summary.update(summary)
        self.run.finish(exit_code=1 if failed else 0)
        self._end_service()


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


class Background:
    """Calls, one after another, in a thread that ends with the process."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def add(self, call: Callable[[], object]) -> None:
        self.calls.put(call)

    def wait(self, seconds: float) -> bool:
        """Wait until all calls so far are done, but no longer. Returns whether they are."""
        done = threading.Event()
        self.calls.put(done.set)
        return done.wait(seconds)

    def _work(self) -> None:
        while True:
            self.calls.get()()


def _assigned_id() -> str | None:
    """The run id that `wandb agent` gives a job of a W&B sweep."""
    return os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None


def _kill_service() -> None:
    """End W&B's own process at once; its orderly end would wait for the server."""
    from wandb.sdk import wandb_setup

    with suppress(AttributeError):  # it has not started
        wandb_setup._singleton._connection._proc._process.kill()  # type: ignore[union-attr]


def _end_telemetry() -> None:
    """Keep W&B's own measurements off, for whose server Python would wait ten seconds at its end."""
    with suppress(ImportError):
        from wandb.analytics.opentelemetry.opentelemetry_proxy import disable

        disable()


def _why_offline(answers: "queue.SimpleQueue[str]") -> str:
    """What keeps a run from Weights & Biases; empty when its server takes the key.

    Args:
        answers: where the server's answer arrives, or that of one who waits for it no longer.
    """
    key = _api_key()
    if not key:
        return "Weights & Biases has no API key (WANDB_API_KEY, or run: wandb login)"
    threading.Thread(target=lambda: answers.put(_problem_of_server(key)), daemon=True).start()
    try:
        answer = answers.get(timeout=PROBE_SECONDS)  # urllib's own limit is one for each read
    except queue.Empty:
        answer = "does not answer"
    return f"Weights & Biases at {_server().hostname} {answer}" if answer else ""


def _problem_of_server(key: str) -> str:
    """Ask the server who the key belongs to."""
    request = urllib.request.Request(
        f"{_server().geturl().rstrip('/')}/graphql",
        data=json.dumps({"query": "query Viewer { viewer { id } }"}).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": "Basic " + base64.b64encode(f"api:{key}".encode()).decode(),
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        return "does not take the API key" if error.code in (401, 403) else f"answers {error.code}"
    except (OSError, ValueError) as error:
        return f"cannot be used ({getattr(error, 'reason', None) or type(error).__name__})"
    return "" if isinstance(answer, dict) and "data" in answer else "answers something else"


def _server() -> ParseResult:
    return urlparse(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai")


def _api_key() -> str:
    """The key of the environment, or of the netrc file that `wandb login` writes; else empty."""
    if os.environ.get("WANDB_API_KEY"):
        return os.environ["WANDB_API_KEY"]
    with suppress(OSError, netrc.NetrcParseError):
        found = netrc.netrc(os.environ.get("NETRC")).authenticators(_server().netloc)
        return found[2] or "" if found else ""
    return ""
