"""The run directory while it is written: the truth about a run, readable without MiniCLIP."""

import json
import logging
import os
import platform
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from miniclip.errors import UserError, without_secrets
from miniclip.files import append, as_json, locked, overwrite, replacing, write_json, write_text
from miniclip.runs.environment import environment
from miniclip.runs.run_files import IDENTITY, RunFiles
from miniclip.runs.small_files import DamagedFile
from miniclip.runs.state import read_state

log = logging.getLogger(__name__)

Status = Literal["running", "completed", "interrupted", "diverged", "out_of_memory", "failed"]

HEARTBEAT_SECONDS = 20.0
"""How often a run shows that it is alive; see `RunDirectory.heartbeat`."""

JOB_FORMAT = 2
"""Of `job.json`. Keys of format 1 were hashed from names that have changed since."""


class RunDirectory(RunFiles):
    """Creates and writes the files of one run. They are replaced whole; records are appended.

    Args:
        path: the run directory; it and its folders of checkpoints and figures are made.

    Raises:
        DamagedFile: when something else lies in the place of a file, or a link that leads out.
    """

    def __init__(self, path: Path):
        super().__init__(path)
        self._others_see_lock = True
        self._former: dict[Path, tuple[bytes, int]] = {}
        self.check_places()
        for folder in (self.checkpoints, self.figures):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def holds_a_run(self) -> bool:
        """Whether there is something that a fresh start would lose."""
        return any(self.checkpoints.glob("*.pt")) or self.summary.exists()

    def clear(self) -> None:
        """Remove what an earlier try in the same directory left, but for its log."""
        self.goes_on()
        for path in (
            self.metrics,
            self.skipped_batches,
            self.summary,
            self.ranks,
            self.ranks_test,
            self.trace,
            self.wandb_id,
        ):
            path.unlink(missing_ok=True)

        for folder in (self.checkpoints, self.evaluation, self.tensorboard):
            shutil.rmtree(folder, ignore_errors=True)
        self.checkpoints.mkdir()

    @contextmanager
    def kept_until_it_goes_on(self) -> Iterator[None]:
        """Leave the run that lies here as it is, where a command is refused inside the context.

        Config and status are the command's from its start, long before it is known whether its settings and
        data are those of the checkpoint; see `goes_on`.
        """
        if self.holds_a_run:
            paths = [path for path in map(self._at, IDENTITY) if path.is_file()]
            self._former = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
        try:
            yield
        except UserError:
            for path, (content, time_ns) in self._former.items():
                with suppress(OSError):
                    with replacing(path, "wb") as file:
                        file.write(content)
                    os.utime(path, ns=(time_ns, time_ns))  # of the status: when the run was last heard
            raise
        finally:
            self.goes_on()

    def goes_on(self) -> None:
        """Be the run of this command from here on, however it ends; see `kept_until_it_goes_on`."""
        self._former = {}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory for this process, as long as the context or the process lives.

        Raises:
            UserError: when another process holds it.
        """
        with locked(self.lock_file) as is_free:
            if not is_free:
                raise UserError(folder_is_busy(self.path))

            # a file system without locks gives it to everybody
            with locked(self.lock_file, wait_seconds=0) as is_still_free:
                self._others_see_lock = not is_still_free
            yield

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Show inside the context that this process is alive: the time of its status is renewed.

        A run on another machine, or on a file system without locks, is known by it.
        """
        is_over = threading.Event()

        def beat() -> None:
            while not is_over.wait(HEARTBEAT_SECONDS):
                with suppress(OSError):  # the disk's trouble is told where something is to be kept
                    os.utime(self.status)

        threading.Thread(target=beat, name="heartbeat", daemon=True).start()
        try:
            yield
        finally:
            is_over.set()

    def claim(self, source: Path) -> bool:
        """Become the run that goes on with the one in `source`.

        Returns:
            whether it is free to be gone on with: no other run has trained on from it, or is about to.
        """
        if source.resolve() == self.path.resolve():
            return True

        try:
            # the lock keeps a second run from claiming it at the same time
            with RunDirectory(source).lock():
                heir = heir_of(source)
                if heir is not None and heir != self.path.resolve():
                    return False
                write_text(RunFiles(source).continued_in, f"{_relative(self.path, source)}\n")
        except UserError:  # it is training, or being claimed
            return False
        return True

    def go_on_from(self, source: Path) -> None:
        """Be the same run in Weights & Biases as the run in another directory, if that never finished."""
        former = RunFiles(source)
        former.check_links()
        if former.summary.exists() or source == self.path:
            return

        try:
            kept_id = former.read_wandb_id()
        except DamagedFile as error:
            log.warning("%s It is another run in Weights & Biases now.", error)
            return
        if kept_id is not None:
            write_text(self.wandb_id, kept_id)

    def write_config(self, text: str) -> None:
        """Record the resolved config, as YAML."""
        write_text(self.config, text)

    def write_environment(
        self,
        device: torch.device,
        data: dict[str, Any],
        *,
        weights: dict[str, str],
        optimizer: dict[str, Any],
    ) -> None:
        """Record versions, machine, git revision, what identifies data and weights, and who trains what."""
        facts = {**environment(device), "data": data, "weights": weights, "optimizer": optimizer}
        write_json(self.environment, {name: value for name, value in facts.items() if value != {}})

    def write_job(self, *, key: str, overrides: list[str]) -> None:
        """Record which job of a sweep this is."""
        write_json(self.job, {"format": JOB_FORMAT, "key": key, "overrides": overrides})

    def write_status(self, status: Status, **details: Any) -> None:
        """Record how the run stands, and when."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        process: dict[str, Any] = {"host": platform.node(), "pid": os.getpid()}
        if not self._others_see_lock:
            process["lock"] = False
        told = {
            name: without_secrets(value) if isinstance(value, str) else value
            for name, value in details.items()
        }
        text = as_json({"status": status, "time": now, **process, **told})
        try:
            write_text(self.status, text)
        except OSError:
            # a full disk has no room for a second file
            if not self.status.is_file():
                raise
            overwrite(self.status, text)

    def append_skipped(self, step: int, images: list[str]) -> None:
        """Record which images a step that was skipped had seen."""
        append(self.skipped_batches, json.dumps({"step": step, "images": images}, ensure_ascii=False))

    def write_ranks(self, *, of_test: bool = False, **ranks: torch.Tensor) -> None:
        """Record where each image and caption stood, as named NumPy arrays."""
        arrays: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in ranks.items()}
        with replacing(self.ranks_test if of_test else self.ranks, "wb") as file:
            np.savez_compressed(file, **arrays)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Record what came of the training."""
        write_json(self.summary, summary)


def folder_is_busy(folder: Path) -> str:
    """What a run is told whose directory another process holds."""
    return f"Another process trains in {folder}; give this run another folder: hydra.run.dir=..."


def heir_of(folder: Path) -> Path | None:
    """The directory in which a run has trained on, or does so now; one that left no checkpoint is none."""
    try:
        path = RunFiles(folder).read_heir()
        heir = None if path is None else path.resolve()
    except (DamagedFile, OSError):
        return None
    if heir is None:
        return None

    has_trained = RunFiles(heir).last_checkpoint.is_file()
    return heir if has_trained or read_state(heir).status == "running" else None


def _relative(path: Path, start: Path) -> str:
    """The way to a path from another, so that both may move; a path on another drive stays as it is."""
    try:
        return os.path.relpath(path, start)
    except ValueError:
        return str(path.resolve())
