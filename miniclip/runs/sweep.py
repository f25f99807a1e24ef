"""A sweep that can be stopped at any time and goes on: keys of its jobs, its table, what failed.

A sweep is a folder of run directories. Each holds `job.json` with the job's key, a hash of what it
computes; by it a second launch into the same folder knows what is done. `summary.csv` and `summary.md` are
written anew after every job.
"""

import csv
import io
import logging
import os
import platform
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from miniclip.disk_errors import disk_errors_told
from miniclip.errors import UserError, counted
from miniclip.files import locked, write_json, write_text
from miniclip.metrics import DIRECTIONS, RECALL_AT
from miniclip.runs import RunFiles, State, read_state
from miniclip.runs.collapse import has_collapsed
from miniclip.runs.job_key import known_key
from miniclip.runs.run_directory import JOB_FORMAT, heir_of
from miniclip.runs.run_files import LOG, find_jobs, is_job
from miniclip.runs.shapes import COUNT, TEXT, Shape
from miniclip.runs.small_files import (
    DamagedFile,
    read_object,
)
from miniclip.runs.state import UNREADABLE
from miniclip.table_cells import markdown_cell, spreadsheet_cell

log = logging.getLogger(__name__)

PLAN = "sweep.json"

STUDY = "study.log"
"""Journal of a search by Optuna, which chooses its jobs one after the other."""

SEARCH = "search.json"
"""How far such a search has come."""

SEARCH_SHAPE: Shape = {"jobs": COUNT, "begun": COUNT}

PLAN_SHAPE: Shape = {"format?": COUNT, "keys": [TEXT]}

ELSEWHERE = "Where a sweep is written: hydra.sweep.dir=FOLDER"
"""Advice where its folder cannot be written."""

RECALLS = tuple(f"{direction}_r{k}" for direction in DIRECTIONS for k in (min(RECALL_AT), max(RECALL_AT)))
"""Of the six, those that a sweep's table has room for: i2t_r1, i2t_r10, t2i_r1, t2i_r10."""

COLUMNS = (
    "job",
    "status",
    "rsum",
    *RECALLS,
    "test_rsum",
    "protocol",
    "steps",
    "seconds",
    "features",
    "overrides",
)


@dataclass(frozen=True)
class Job:
    """One run directory of a sweep, as it is on disk.

    Attributes:
        damages: which of its files are damaged, and how; the job is known by those that are not.
    """

    path: Path
    key: str
    overrides: list[str]
    state: State
    summary: dict[str, Any]
    damages: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "Job":
        run = RunFiles(path)
        damages: list[str] = []
        job = _read_or_empty(run.read_job, damages)
        summary = _read_or_empty(run.read_summary, damages)

        key = known_key(path) or path.name
        return cls(path, key, job.get("overrides", []), read_state(path), summary, tuple(damages))

    @property
    def is_completed(self) -> bool:
        return self.state.status == "completed" and self.summary.get("best_rsum") is not None

    @property
    def has_collapsed(self) -> bool:
        """Whether the features of its best weights do not spread."""
        return has_collapsed(self.summary.get("best", {}))

    @property
    def checkpoint(self) -> Path | None:
        """Where an interrupted job goes on, or one that has lost what it says of its end.

        Nowhere if it has gone on in another folder of the sweep, which can go on itself: what was trained
        there would be trained again.
        """
        # from a checkpoint what is lost is made again, and nothing is trained twice
        has_lost_its_end = self.state.status in ("completed", UNREADABLE)
        if self.is_completed or not (self.state.is_resumable or has_lost_its_end):
            return None
        heir = heir_of(self.path)
        if heir is not None and heir.parent == self.path.parent.resolve() and read_state(heir).is_resumable:
            return None

        try:
            path = RunFiles(self.path).last_checkpoint
        except DamagedFile:
            return None
        return path if path.is_file() else None

    def rank(self) -> tuple[bool, bool, bool]:
        """Sorts tries of one job, the furthest first."""
        # False sorts before True
        return not self.is_completed, self.state.status != "running", self.checkpoint is None

    def row(self) -> dict[str, str]:
        """Its line of the table."""
        best, test = self.summary.get("best", {}), self.summary.get("test", {})
        numbers = {
            "rsum": best.get("val/rsum"),
            **{key: best.get(f"val/{key}") for key in RECALLS},
            "test_rsum": test.get("test/rsum"),
        }

        # a job that has not come so far lacks them
        protocols = [record["protocol"] for record in (best, test) if "protocol" in record]
        return {
            "job": self.path.name.partition("_")[0],
            "status": self.state.status,
            **{key: "" if value is None else f"{value:.1f}" for key, value in numbers.items()},
            "protocol": "; ".join(protocols),
            "steps": str(self.summary.get("steps", "")),
            "seconds": "" if self.summary.get("seconds") is None else f"{self.summary['seconds']:.0f}",
            "features": "do not spread" if self.has_collapsed else "",
            "overrides": shlex.join(self.overrides),
        }


class NumJobs(NamedTuple):
    """How many jobs a sweep has.

    Attributes:
        planned: begun or not; 0 where that is not known.
        unstarted: those that have not begun.
    """

    planned: int
    unstarted: int


class Sweep:
    """A folder of jobs."""

    def __init__(self, path: Path):
        self.path = path

    def jobs(self) -> list[Job]:
        """The jobs that have begun, in their order.

        Of several tries of one job, in folders of several numbers, a completed one counts, else one that is
        running, else one that can go on, else any.
        """
        folders = sorted(find_jobs(self.path), key=_number)
        tries: dict[str, list[Job]] = {}
        for job in map(Job.read, folders):
            tries.setdefault(job.key, []).append(job)

        counting = [min(jobs, key=Job.rank) for jobs in tries.values()]
        return sorted(counting, key=lambda job: _number(job.path))

    def job(self, key: str) -> Job | None:
        """The job of a key."""
        return next((job for job in self.jobs() if job.key == key), None)

    def is_of_another_job(self, folder: Path, key: str) -> bool:
        """Whether a run directory holds a job of another key, or one that nothing tells the key of."""
        return is_job(folder) and known_key(folder) != key

    def claim(self, keys: Sequence[str]) -> None:
        """Begin, or go on with, a sweep of these jobs in this folder.

        Raises:
            UserError: when the folder holds a sweep without any of them, or cannot be written.
        """
        plan = self._read_plan()
        known = plan["keys"]
        if not _has_keys_of_today(plan):
            known = [job.key for job in self.jobs()]

        if (known or plan["keys"]) and not set(known) & set(keys):
            num_known = counted(len(plan["keys"] or known), "job")
            raise UserError(
                f"{self.path} holds another sweep, of {num_known} and none of these {len(keys)}. "
                "Give this one a folder of its own: hydra.sweep.dir=..."
            )

        all_keys = list(dict.fromkeys([*known, *keys]))
        with disk_errors_told(ELSEWHERE):
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self._plan_file, {"format": JOB_FORMAT, "keys": all_keys})

    def write_search(self, *, num_jobs: int, num_begun: int) -> None:
        """Record how many jobs a search is to have in all, and how many of them have begun."""
        write_json(self.path / SEARCH, {"jobs": num_jobs, "begun": num_begun})

    def num_jobs(self) -> NumJobs:
        """How many jobs were launched into this folder."""
        if (self.path / STUDY).is_file():
            search = _read_or_empty(lambda: read_object(self.path / SEARCH, SEARCH_SHAPE), [])
            planned = search.get("jobs", 0)
            return NumJobs(planned, max(0, planned - search.get("begun", 0)))

        keys = self._planned()
        begun = {known_key(folder) for folder in find_jobs(self.path)}
        return NumJobs(len(keys), len(set(keys) - begun))

    def _planned(self) -> list[str]:
        """Keys of the jobs that were launched into this folder, begun or not, where they are known."""
        plan = self._read_plan()
        return plan["keys"] if _has_keys_of_today(plan) else []

    @property
    def _plan_file(self) -> Path:
        return self.path / PLAN

    def _read_plan(self) -> dict[str, Any]:
        """The keys of all jobs that were launched into this folder, begun or not."""
        try:
            return read_object(self._plan_file, PLAN_SHAPE) or {"keys": []}
        except DamagedFile as error:
            log.warning("%s Of its jobs those that have begun are known.", error)
            return {"keys": []}

    @contextmanager
    def own_device(self, num_gpus: int) -> Iterator[str]:
        """A GPU that no other job of this sweep on this machine holds inside the context, "cuda:1" say.

        "auto" where there is none, or all are taken.
        """
        # the lock is the system's: a job that is killed gives its GPU back, too
        for index in range(num_gpus):
            with locked(self.path / f".{platform.node()}_gpu{index}.lock", wait_seconds=0) as is_free:
                if is_free:
                    yield f"cuda:{index}"
                    return

        yield "auto"

    def write_summary(self) -> None:
        """Write the table as CSV and Markdown; jobs that end together wait for each other.

        Where it cannot be written, that is told and no job is lost.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with locked(self.path / ".summary.lock", wait_seconds=-1):
                self._write_table([job.row() for job in self.jobs()])
        except OSError as error:
            log.warning("The sweep's table cannot be written: %s", error)

    def _write_table(self, rows: Sequence[dict[str, str]]) -> None:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({column: spreadsheet_cell(cell) for column, cell in row.items()} for row in rows)

        # each is replaced whole, so that a reader never sees half a table
        write_text(self.path / "summary.csv", buffer.getvalue())
        write_text(self.path / "summary.md", "\n".join(markdown_table(COLUMNS, rows)) + "\n")

    def failures(self) -> list[str]:
        """A line for each job that is not completed: what it was, why it ended, and where its log lies."""
        return [
            f"{job.path.name}: {'; '.join([str(job.state), *job.damages])}; see {job.path / LOG}"
            for job in self.jobs()
            if not job.is_completed
        ]


def markdown_table(columns: Sequence[str], rows: Sequence[dict[str, str]]) -> list[str]:
    """A table in Markdown, a line each."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        cells = (markdown_cell(row[column]) for column in columns)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def find_sweeps(folder: Path) -> list[Path]:
    """The folders of sweeps at and below a folder."""
    return sorted(Path(place) for place, _, files in os.walk(folder) if PLAN in files)


def _has_keys_of_today(plan: dict[str, Any]) -> bool:
    """Whether the jobs of a plan have the keys that they would have today; an older version's have not."""
    return plan.get("format", 1) >= JOB_FORMAT


def _read_or_empty(read: Callable[[], dict[str, Any]], damages: list[str]) -> dict[str, Any]:
    """What a reader gives; nothing where the file is damaged, which is noted."""
    try:
        return read()
    except DamagedFile as error:
        damages.append(str(error))
        return {}


def _number(folder: Path) -> tuple[int, str]:
    """What the folders of jobs are sorted by, "10_rho=0.1" after "9_rho=0.05"."""
    number = folder.name.partition("_")[0]
    return (int(number) if number.isdigit() else 0, folder.name)
