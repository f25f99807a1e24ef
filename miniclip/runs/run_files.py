"""The files of a run: their names, and how they are read. Nothing here creates or changes one."""

import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from miniclip.files import is_locked, read_json, within
from miniclip.renamed import renamed_config

CHECKPOINTS = "checkpoints"
JOB = "job.json"
STATUS = "status.json"

FILES = (
    CHECKPOINTS,
    "checkpoints/best.pt",
    "checkpoints/last.pt",
    "config.yaml",
    "continued_in",
    "environment.json",
    "evaluation",
    "figures",
    JOB,
    ".lock",
    "metrics.jsonl",
    "ranks.npz",
    "ranks_test.npz",
    "skipped_batches.jsonl",
    STATUS,
    "summary.json",
    "tensorboard",
    "tokenizer",
    "wandb",
    "wandb_id",
)
"""All that is written into a run directory, but for its log and Hydra's own files."""


MOST_RANKS_BYTES = 2**30
"""Of ranks in memory: those of thirty million captions."""


class _PlainLoader(yaml.SafeLoader):
    """Reads plain data without aliases: a run writes none, and a few lines of them stand for billions."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("it holds aliases, which no run writes")
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


class RunFiles:
    """Names and reads the files of one run, which may be a stranger's.

    Args:
        path: the run directory.

    Raises:
        UserError: when a file is asked for in whose place lies a link that leads out of the directory.
    """

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> "RunFiles | None":
        """The files of the run that a checkpoint lies in; None if its folder is that of no run."""
        return cls(checkpoint.parent.parent) if checkpoint.parent.name == CHECKPOINTS else None

    @property
    def config(self) -> Path:
        """The resolved config."""
        return within(self.path, "config.yaml")

    @property
    def environment(self) -> Path:
        """Versions, machine, and what identifies the data."""
        return within(self.path, "environment.json")

    @property
    def status(self) -> Path:
        """How the run stands; see `read_state`."""
        return within(self.path, STATUS)

    @property
    def lock_file(self) -> Path:
        """Locked by the process that trains."""
        return within(self.path, ".lock")

    @property
    def metrics(self) -> Path:
        """Records of steps and validations, one a line."""
        return within(self.path, "metrics.jsonl")

    @property
    def skipped_batches(self) -> Path:
        """The images of steps that were skipped, a record a line."""
        return within(self.path, "skipped_batches.jsonl")

    @property
    def summary(self) -> Path:
        """What came of the training; a finished run has it."""
        return within(self.path, "summary.json")

    @property
    def ranks(self) -> Path:
        """Rank of each validation image and caption with the best checkpoint."""
        return within(self.path, "ranks.npz")

    @property
    def ranks_test(self) -> Path:
        """The same of the test part."""
        return within(self.path, "ranks_test.npz")

    @property
    def job(self) -> Path:
        """Which job of a sweep this is."""
        return within(self.path, JOB)

    @property
    def log(self) -> Path:
        """What the run printed; Hydra writes it (`hydra.job.name` in conf/config.yaml)."""
        return within(self.path, "train.log")

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer."""
        return within(self.path, "tokenizer")

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return within(self.path, CHECKPOINTS)

    @property
    def last_checkpoint(self) -> Path:
        """Where the run goes on."""
        return self.checkpoint("last")

    @property
    def best_checkpoint(self) -> Path:
        """The weights of the best validation."""
        return self.checkpoint("best")

    def checkpoint(self, name: str) -> Path:
        """A checkpoint by its name: "last", "best", "epoch_0010"."""
        return within(self.path, f"{CHECKPOINTS}/{name}.pt")

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return within(self.path, "figures")

    @property
    def curves_figure(self) -> Path:
        """Loss and recalls over the training."""
        return within(self.path, "figures/curves.png")

    @property
    def retrieval_figure(self) -> Path:
        """What the best checkpoint retrieves."""
        return within(self.path, "figures/retrieval.png")

    @property
    def evaluation(self) -> Path:
        """Folder of what evaluation found."""
        return within(self.path, "evaluation")

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's files."""
        return within(self.path, "tensorboard")

    @property
    def wandb(self) -> Path:
        """Folder of Weights & Biases' files."""
        return within(self.path, "wandb")

    @property
    def wandb_id(self) -> Path:
        """The id of the run in Weights & Biases."""
        return within(self.path, "wandb_id")

    @property
    def continued_in(self) -> Path:
        """Where the run went on in another directory."""
        return within(self.path, "continued_in")

    def read_config(self) -> dict[str, Any]:
        """The resolved config, with today's names.

        Raises:
            OSError, ValueError: when it is missing or damaged.
        """
        try:
            config = yaml.load(self.config.read_text(encoding="utf-8"), Loader=_PlainLoader)
        except (yaml.YAMLError, RecursionError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{self.config} is damaged ({reason})") from None
        if not isinstance(config, dict):
            raise ValueError(f"{self.config} is no config")
        return renamed_config(config)

    def read_data(self) -> dict[str, dict[str, Any]]:
        """What identifies each part of the data: {"val": {"fingerprint": "9f..."}}; empty if unknown."""
        return read_json(self.environment).get("data", {})

    def read_job(self) -> dict[str, Any]:
        """The job that this run is of a sweep; empty if it is none."""
        return read_json(self.job)

    def read_summary(self) -> dict[str, Any]:
        """What came of the training; empty until it has ended."""
        return read_json(self.summary)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All records that are whole, in their order; a run that was killed may leave half a line."""
        return _read_records(self.metrics)

    def read_ranks(self, *, of_test: bool = False) -> dict[str, np.ndarray] | None:
        """Ranks by their names, and `image_of_caption`; None if the run kept none."""
        path = self.ranks_test if of_test else self.ranks
        if not path.is_file():
            return None
        with zipfile.ZipFile(path) as archive:
            num_bytes = sum(member.file_size for member in archive.infolist())
        if num_bytes > MOST_RANKS_BYTES:
            raise ValueError(f"{path} would take {num_bytes:,} bytes of memory")
        with np.load(path) as arrays:
            return dict(arrays)


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
    run = RunFiles(folder)
    try:
        state = read_json(run.status)
    except NotADirectoryError:
        state = {}
    except ValueError:
        return State("unreadable", f"{run.status} is damaged")

    # a process that is killed cannot say so, but the system takes its lock from it
    status = state.get("status", "running")  # without a file it has not come so far yet, or never will
    is_killed = status == "running" and not is_locked(run.lock_file)
    return State("killed" if is_killed else status, state.get("reason", ""))


def find_runs(folder: Path) -> list[Path]:
    """The run directories at and below a folder."""
    return sorted({status.parent for status in folder.rglob(STATUS)})


def find_jobs(folder: Path) -> list[Path]:
    """The run directories of a sweep's jobs."""
    return sorted(job.parent for job in folder.glob(f"*/{JOB}"))


def check_links(folder: Path) -> None:
    """Hold the whole of a run directory against links.

    Raises:
        UserError: when one leads out of it.
    """
    for name in FILES:
        within(folder, name)


def _read_records(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []

    # a line without an end is half a record, which a killed process has left
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]
