"""Weights & Biases as a view of metrics.jsonl."""

import logging
import os
import queue
import secrets
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from miniclip.errors import first_line
from miniclip.files import write_text
from miniclip.metrics import DIRECTIONS, RECALL_AT, recall_keys
from miniclip.runs.loggers.background import Background
from miniclip.runs.loggers.view import RunFacts, View, tell_errors_once
from miniclip.runs.loggers.wandb_server import (
    end_service,
    end_telemetry,
    is_answering,
    kill_service,
    why_offline,
)
from miniclip.runs.loggers.wandb_settings import check_wandb_settings
from miniclip.runs.run_files import RunFiles
from miniclip.runs.small_files import DamagedFile
from miniclip.table_cells import spreadsheet_cell

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0
"""How long a run waits for Weights & Biases, all its waits together."""

START_SECONDS = 2.0
"""The most of it that the start takes; the run's thread for W&B may take longer."""

LOCAL_SECONDS = 2.5
"""What the end keeps of it, to write the run's files where the server has not answered until then."""

INIT_SECONDS = 20.0
"""A slow server, which answers each of several requests after two seconds, is still waited for."""

UPLOAD_SECONDS = 600.0
"""The longest wait at the end where a checkpoint is to be uploaded, and the server goes on answering."""

ASK_SECONDS = 2.0
"""How long it may take to answer meanwhile, and how often it is asked."""

# wandb.Table asks for a list of str | int
HEADER: list[str | int] = ["measured on", "direction", *(f"R@{k}" for k in RECALL_AT), "median rank"]


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
        log_model: keep the best checkpoint as an artifact; its upload may take ten minutes at the end, as
            long as the server answers.

    Raises:
        UserError: when Weights & Biases refuses the project or a WANDB_ variable, or is missing.
    """

    def __init__(
        self,
        *,
        project: str,
        entity: str | None,
        mode: Literal["online", "offline", "disabled"],
        job_type: str,
        log_model: bool,
    ):
        super().__init__()
        check_wandb_settings(project=project)
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

    def start(self, folder: Path, run: RunFacts) -> None:
        self.background = Background()
        super().start(folder, run)
        # a start that takes longer goes on beside the training
        self._wait(START_SECONDS)

    def finish(self, *, failed: bool, summary: dict[str, Any], figures: dict[str, Path]) -> None:
        super().finish(failed=failed, summary=summary, figures=figures)

        # the start may still wait for a server that never answers
        self._wait(self.patience - LOCAL_SECONDS)
        if self._is_reaching:
            self._cut_off()

        if self.log_model and self._is_online:
            self._wait_for_upload()
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

    def _wait_for_upload(self) -> None:
        """Wait as long as the server answers, which takes nothing off the run's patience; silence does."""
        deadline = time.monotonic() + UPLOAD_SECONDS
        while self._is_online and not self.background.wait(0) and time.monotonic() < deadline:
            asked = time.monotonic()
            if not is_answering(min(ASK_SECONDS, self.patience)):
                self.patience = max(0.0, self.patience - (time.monotonic() - asked))
                return
            self.background.wait(ASK_SECONDS)

    def _cut_off(self) -> None:
        """Have the thread wait for the server no longer: it writes the run's files offline instead."""
        self._is_cut_off = True
        self._answers.put("does not answer")

        def end_reaching() -> None:
            while self._is_reaching:  # W&B's process may be about to start
                kill_service()
                time.sleep(0.1)

        threading.Thread(target=end_reaching, daemon=True).start()

    def _leave(self) -> None:
        """Tell what is left to do, and let W&B's process end by itself: Python would else wait for it."""
        self._is_open = False
        folder = shlex.quote(str(self.folder / "wandb"))
        log.warning("Weights & Biases has not taken all of this run: wandb sync %s/*run-*", folder)
        threading.Thread(target=end_service, daemon=True).start()

    def _attempt(self, action: Callable[[], None]) -> None:
        # all that talks to W&B, and all that fails there, stays in the thread
        self.background.add(lambda: super(WandbLogger, self)._attempt(action))

    def _open(self, run: RunFacts) -> None:
        self.facts = run
        mode = os.environ.get("WANDB_MODE", "online") if self.mode == "online" else self.mode
        self._is_reaching = mode == "online"

        # without a key W&B itself would ask for one at the terminal
        reason = why_offline(self._answers) if mode == "online" else ""
        if reason:
            log.warning("%s, so this run is kept offline. %s", reason, _how_to_sync(self.folder))
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

        end_telemetry()
        tell_errors_once()
        self.run = wandb.init(
            project=self.project,
            entity=self.entity,
            id=_kept_id(self.folder),
            resume="allow" if mode == "online" else None,
            name=os.environ.get("WANDB_NAME") or self.facts.name,
            group=self.facts.group,
            job_type=self.job_type,
            tags=_with_tags_of_environment(self.facts.tags),
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
        _define_metrics(self.run)

    def _show(self, record: dict[str, Any]) -> None:
        try:
            self._write(record)
        except Exception as error:
            # written to files already: what fails now is no server
            if not self._can_begin_anew:
                raise

            self._go_on_offline(error)
            self._write(record)

    def _write(self, record: dict[str, Any]) -> None:
        self._write_history(until=record)
        self.run.log(record)

    def _write_history(self, until: dict[str, Any] | None = None) -> None:
        """Write what came before a record, or all, if these files lack it."""
        # a resumed run that is new to the server, or offline, has its former records in the file only
        records = RunFiles(self.folder).read_metrics() if self._lacks_history else []
        for earlier in records:
            if until is None or (earlier["step"] <= until["step"] and earlier != until):
                self.run.log(earlier)
        self._lacks_history = False

    @property
    def _can_begin_anew(self) -> bool:
        """Whether what fails can be written to new files: once, and not when the run has left."""
        return self._is_open and not self._is_second_try

    def _go_on_offline(self, error: Exception) -> None:
        """Write new files, of the whole run, with a new process of W&B's; the former one is lost."""
        text = "no answer in time" if self._is_cut_off else first_line(error)
        log.warning(
            "Weights & Biases fails (%s): kept offline from here. %s", text, _how_to_sync(self.folder)
        )

        self._is_second_try = True
        self._is_online = False
        end_service()
        self._init("offline")

    def _give_up(self, error: Exception) -> None:
        if self._is_open:  # else the run has left, and has told so
            super()._give_up(error)
        end_service()

    def _close(self, failed: bool, summary: dict[str, Any], figures: dict[str, Path]) -> None:
        try:
            self._finish(failed, summary, figures)
        except Exception as error:
            if not self._can_begin_anew:
                raise

            self._go_on_offline(error)
            self._write_history()
            self._finish(failed, summary, figures)
        end_service()

    def _finish(self, failed: bool, summary: dict[str, Any], figures: dict[str, Path]) -> None:
        import wandb

        for key, path in figures.items():
            self.run.log({f"figures/{key}": wandb.Image(str(path))})

        rows = _retrieval_rows(summary)
        if rows:
            self.run.log({"retrieval": wandb.Table(columns=HEADER, data=rows)})

        checkpoint = RunFiles(self.folder).best_checkpoint
        if self.log_model and checkpoint.is_file():
            _log_checkpoint(self.run, checkpoint)

        self.run.summary.update(summary)
        self.run.finish(exit_code=1 if failed else 0)


def _with_tags_of_environment(tags: Sequence[str]) -> list[str]:
    """A run's own tags and those of WANDB_TAGS, which W&B drops where it is given some."""
    asked = os.environ.get("WANDB_TAGS")
    others = [tag.strip() for tag in asked.split(",")] if asked else []
    return list(dict.fromkeys([*tags, *others]))


def _how_to_sync(folder: Path) -> str:
    return f"Upload it later with: wandb sync {shlex.quote(str(folder / 'wandb'))}/offline-run-*"


def _define_metrics(run: Any) -> None:
    """Plot everything over the steps, and summarize a run by its lowest loss and its highest recalls."""
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    run.define_metric("val/loss", step_metric="step", summary="min")
    for key in ("rsum", *recall_keys()):
        run.define_metric(f"val/{key}", step_metric="step", summary="max")


def _log_checkpoint(run: Any, checkpoint: Path) -> None:
    import wandb

    artifact = wandb.Artifact(f"checkpoint-{run.id}", type="model")
    artifact.add_file(str(checkpoint))
    run.log_artifact(artifact)


def _retrieval_rows(summary: dict[str, Any]) -> list[list[Any]]:
    """Rows of the table of recalls, two per part that was measured."""
    rows: list[list[Any]] = []
    for part, record in (("val", summary.get("best")), ("test", summary.get("test"))):
        if not record:
            continue

        for direction, title in DIRECTIONS.items():
            recalls = [record[f"{part}/{direction}_r{k}"] for k in RECALL_AT]
            median_rank = record[f"{part}/{direction}_median_rank"]
            rows.append([spreadsheet_cell(record.get("protocol", part)), title, *recalls, median_rank])
    return rows


def _kept_id(folder: Path) -> str:
    """The id under which a run goes on: that which its directory keeps, else a new one."""
    run = RunFiles(folder)
    try:
        kept_id = run.read_wandb_id()
    except DamagedFile as error:
        log.warning("%s It is another run in Weights & Biases now.", error)
        kept_id = None

    if kept_id is None:
        kept_id = _assigned_id() or secrets.token_hex(4)
        write_text(run.wandb_id, kept_id)
    return kept_id


def _assigned_id() -> str | None:
    """The run id that `wandb agent` gives a job of a W&B sweep."""
    return os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
