"""The run directory: the truth about a run, readable without MiniCLIP."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from miniclip.errors import UserError
from miniclip.files import replacing, within
from miniclip.runs.locks import is_locked, locked

Status = Literal["running", "completed", "interrupted", "diverged", "failed"]

LOCK = ".lock"
WANDB_ID = "wandb_id"
"""Keeps the id of the run in Weights & Biases."""

HEIR = "continued_in"
"""Keeps where the run went on in another directory."""

NAMES = (
    "checkpoints",
    "checkpoints/best.pt",
    "checkpoints/last.pt",
    "config.yaml",
    HEIR,
    "environment.json",
    "evaluation",
    "figures",
    "job.json",
    LOCK,
    "metrics.jsonl",
    "ranks.npz",
    "skipped_batches.jsonl",
    "status.json",
    "summary.json",
    "tensorboard",
    "tokenizer",
    "wandb",
    WANDB_ID,
)
"""All that is written into a run directory, but for Hydra's own files."""

PACKAGES = ("miniclip", "torch", "torchvision", "hydra-core", "linformer", "tokenizers", "numpy")


class RunDirectory:
    """Names and writes the files of one run. Files are replaced whole or not at all; records are appended.

    Raises:
        UserError: when a link in the place of one leads out of the directory.
    """

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.figures = path / "figures"
        self.tokenizer = path / "tokenizer"
        self.metrics = path / "metrics.jsonl"
        self.skipped_batches = path / "skipped_batches.jsonl"
        self.summary = path / "summary.json"
        for name in NAMES:
            within(path, name)
        for folder in (self.checkpoints, self.figures):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def last_checkpoint(self) -> Path:
        return self.checkpoints / "last.pt"

    @property
    def best_checkpoint(self) -> Path:
        return self.checkpoints / "best.pt"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    def forget(self) -> None:
        """Remove what an earlier try in the same directory left, but for its log."""
        ranks = self.path / "ranks.npz", self.path / "ranks_test.npz"
        for path in (self.metrics, self.skipped_batches, self.summary, *ranks, self.path / WANDB_ID):
            path.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.evaluation, self.path / "tensorboard"):
            shutil.rmtree(folder, ignore_errors=True)
        self.checkpoints.mkdir()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the directory for this process, as long as the context or the process lives.

        Raises:
            UserError: when another process holds it.
        """
        with locked(self.path / LOCK) as is_free:
            if not is_free:
                raise UserError(f"Another process trains in {self.path}; give this run another folder.")
            yield

    @property
    def holds_a_run(self) -> bool:
        """Whether there is something that a fresh start would lose."""
        return any(self.checkpoints.glob("*.pt")) or self.summary.exists()

    def claim(self, source: Path) -> bool:
        """Become the run that goes on with the one in `source`.

        Returns:
            whether it is free to be gone on with: no other run has trained on from it, or is about to.
        """
        if source.resolve() == self.path.resolve():
            return True
        try:
            with RunDirectory(source).held():
                heir = _heir(source)
                if heir is not None and heir != self.path.resolve():
                    return False
                write_text(source / HEIR, os.path.relpath(self.path, source) + "\n")
        except UserError:  # it is training, or being claimed
            return False
        return True

    def go_on_from(self, source: Path) -> None:
        """Be the same run in Weights & Biases as the run in another directory, if that never finished."""
        kept_id = within(source, WANDB_ID)
        if kept_id.is_file() and not (source / "summary.json").exists() and source != self.path:
            write_text(self.path / WANDB_ID, kept_id.read_text(encoding="utf-8"))

    def append_skipped(self, step: int, images: list[str]) -> None:
        """Record which images a step that was skipped had seen."""
        with open(self.skipped_batches, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "images": images}, ensure_ascii=False) + "\n")

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        write_text(self.path / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def write_status(self, status: Status, **details: Any) -> None:
        """Record how the run stands, and when."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        process = {"host": platform.node(), "pid": os.getpid()}  # for people
        self.write_json("status.json", {"status": status, "time": now, **process, **details})

    def write_environment(self, device: torch.device, data: dict[str, Any]) -> None:
        """Record versions, machine, git revision and what identifies the data."""
        self.write_json(
            "environment.json",
            {
                "python": platform.python_version(),
                "platform": platform.platform(),
                "device": str(device),
                "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
                "cpu_threads": torch.get_num_threads(),
                "versions": {name: _version(name) for name in PACKAGES},
                "git_revision": git_revision(),
                "data": data,
            },
        )


class State(NamedTuple):
    """How a run stands.

    Attributes:
        status: of `status.json`; "killed" where no process holds the directory of a run that never ended.
        reason: why it failed, else empty.
    """

    status: str
    reason: str

    def __str__(self) -> str:
        return f"{self.status} ({self.reason})" if self.reason else self.status

    @property
    def is_resumable(self) -> bool:
        """Whether it only lacked time: a failed run would fail again, a running one goes on by itself."""
        return self.status in ("interrupted", "killed")


def read_state(folder: Path) -> State:
    """The state of the run in a folder."""
    try:
        state = json.loads(within(folder, "status.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        state = {"status": "running"}  # it has not come so far yet, or never will
    except ValueError:
        return State("unreadable", f"{folder / 'status.json'} is damaged")
    is_killed = state["status"] == "running" and not is_locked(folder / LOCK)
    return State("killed" if is_killed else state["status"], state.get("reason", ""))


def _heir(folder: Path) -> Path | None:
    """The directory in which a run has trained on, or does so now; one that left no checkpoint is none."""
    try:
        heir = (folder / within(folder, HEIR).read_text(encoding="utf-8").strip()).resolve()
    except (OSError, ValueError):
        return None
    has_trained = (heir / "checkpoints" / "last.pt").is_file()
    return heir if has_trained or read_state(heir).status == "running" else None


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    with replacing(path) as file:
        file.write(text)


def save_arrays(path: Path, **tensors: torch.Tensor) -> None:
    """Replace a file of named NumPy arrays in one step."""
    arrays: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    with replacing(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def git_revision() -> str | None:
    """The revision of MiniCLIP's own checkout, with "+changes" if it was edited; None outside git."""
    folder = Path(__file__).parent
    try:
        revision = _git(folder, "rev-parse", "HEAD")
        edited = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{revision}+changes" if edited else revision


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
