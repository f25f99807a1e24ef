"""Finished runs as a report reads them from their directories, and those that came to nothing."""

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from miniclip.errors import UserError, counted
from miniclip.files import flatten
from miniclip.metrics import Ranks
from miniclip.runs import RunFiles, find_runs, read_state
from miniclip.runs.job_key import read_job_key

UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    zipfile.BadZipFile,
)
"""What a run's damaged or foreign files raise."""


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        settings: the config, flat: {"optimizer.rho": 0.05}.
        best: the validation record with the highest rsum.
        validations: all validation records, in order.
        ranks: where each image and caption of the part that is reported stood, if the run kept it, and
            the image of each caption.
        test: the record of the test part, measured once with the best checkpoint; None without such a part.
        retrieval_figure: what its best checkpoint retrieves; None if it drew none.
    """

    path: Path
    settings: dict[str, Any]
    best: dict[str, Any]
    validations: list[dict[str, Any]]
    fingerprint: str
    ranks: tuple[Ranks, np.ndarray] | None
    test: dict[str, Any] | None = None
    retrieval_figure: Path | None = None

    @property
    def seed(self) -> int:
        return self.settings.get("seed", 0)

    @property
    def protocol(self) -> str:
        """What the reported numbers were measured on."""
        return (self.best if self.test is None else self.test)["protocol"]

    @property
    def kind(self) -> str:
        """What the reported numbers are."""
        if self.test is None:
            return f"best of {counted(len(self.validations), 'validation')}"
        return "test, measured once with the checkpoint that validation chose"

    @property
    def numbers(self) -> dict[str, float]:
        """The reported metrics, {"rsum": 120.3}: of the test part, or else of the best validation."""
        prefix = "val/" if self.test is None else "test/"
        record = self.best if self.test is None else self.test
        return {key.removeprefix(prefix): value for key, value in record.items() if key.startswith(prefix)}

    @property
    def rsum(self) -> float:
        return self.numbers["rsum"]


class Failure(NamedTuple):
    """A run without a result."""

    path: Path
    status: str
    reason: str


class Collection(NamedTuple):
    """What was found below some paths."""

    runs: list[Run]
    failures: list[Failure]


def read_collection(paths: Iterable[Path]) -> Collection:
    """All runs at or below the paths, each once; of several tries of a sweep's job, the finished one.

    Raises:
        UserError: when a path does not exist or holds no run.
    """
    runs: dict[Path, Run] = {}
    failures: dict[Path, Failure] = {}
    for folder in _run_folders(paths):
        found = _read(folder)
        if isinstance(found, Run):
            runs[folder] = found
        else:
            failures[folder] = found

    # what one try of a job failed to do, another has done
    jobs_done = {_job(folder) for folder in runs}
    still_failed = [failure for failure in failures.values() if _job(failure.path) not in jobs_done]
    return Collection(list(runs.values()), still_failed)


def _run_folders(paths: Iterable[Path]) -> Iterator[Path]:
    """Real paths of the run directories at or below some paths."""
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist.")

        folders = find_runs(path)
        if not folders:
            raise UserError(f"{path} is no run and holds none (no status.json).")
        yield from map(Path.resolve, folders)


def _read(folder: Path) -> Run | Failure:
    """A run that is completed, or why there is no result of it."""
    try:
        state = read_state(folder)
        return _read_run(folder) if state.status == "completed" else Failure(folder, *state)
    except UNREADABLE as error:
        return Failure(folder, "unreadable", f"{type(error).__name__}: {error}")


def _read_run(folder: Path) -> Run:
    files = RunFiles(folder)
    summary = files.read_summary()
    test = summary.get("test")
    data = files.read_data()
    figure = files.retrieval_figure

    return Run(
        path=folder,
        settings=flatten(files.read_config()),
        best=summary["best"],
        validations=[record for record in files.read_metrics() if "val/rsum" in record],
        # of all parts that are measured: runs compare that share them, whatever they trained on
        fingerprint=" ".join(part["fingerprint"] for name, part in data.items() if name != "train"),
        ranks=_ranks(files.read_ranks(of_test=test is not None)),
        test=test,
        retrieval_figure=figure if figure.is_file() else None,
    )


def _ranks(arrays: dict[str, np.ndarray] | None) -> tuple[Ranks, np.ndarray] | None:
    if arrays is None:
        return None
    # images (N,) and captions (M,)
    ranks = Ranks(*(torch.from_numpy(arrays[name]) for name in Ranks._fields))
    return ranks, arrays["image_of_caption"]


def _job(folder: Path) -> tuple[Path, str]:
    """The sweep and the key of a job; of a single run itself."""
    try:
        key = read_job_key(folder)
    except UNREADABLE:
        key = None
    return (folder, "") if key is None else (folder.parent, key)
