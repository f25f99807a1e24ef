"""A sweep that can be stopped at any time and goes on: keys of its jobs, its table, what failed.

A sweep is a folder of run directories. Each holds `job.json` with the job's key, a hash of what it
computes; by it a second launch into the same folder knows what is done. `summary.csv` and `summary.md` are
written anew after every job.
"""

import csv
import io
import platform
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miniclip.errors import UserError, counted
from miniclip.files import locked, read_json, write_json, write_text
from miniclip.metrics import DIRECTIONS, RECALL_AT
from miniclip.runs import RunFiles, State, read_state
from miniclip.runs.job_key import read_job_key
from miniclip.runs.run_directory import JOB_FORMAT
from miniclip.runs.run_files import find_jobs
from miniclip.table_cells import markdown_cell, spreadsheet_cell

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
    "overrides",
)


@dataclass(frozen=True)
class Job:
    """One run directory of a sweep, as it is on disk."""

    path: Path
    key: str
    overrides: list[str]
    state: State
    summary: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Job":
        run = RunFiles(path)
        job = run.read_job()
        key = read_job_key(path) or path.name
        return cls(path, key, job["overrides"], read_state(path), run.read_summary())

    @property
    def is_completed(self) -> bool:
        return self.state.status == "completed" and "best_rsum" in self.summary

    @property
    def checkpoint(self) -> Path | None:
        """Where an interrupted job goes on."""
        path = RunFiles(self.path).last_checkpoint
        return path if self.state.is_resumable and path.is_file() else None

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
            "seconds": f"{self.summary['seconds']:.0f}" if "seconds" in self.summary else "",
            "overrides": shlex.join(self.overrides),
        }


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
        """Whether a run directory holds a job of another key."""
        return read_job_key(folder) not in (None, key)

    def claim(self, keys: Sequence[str]) -> None:
        """Begin, or go on with, a sweep of these jobs in this folder.

        Raises:
            UserError: when the folder holds a sweep without any of them.
        """
        plan_file = self.path / "sweep.json"
        plan = read_json(plan_file)
        known = plan.get("keys", [])
        if plan.get("format", 1) < JOB_FORMAT:  # its jobs have other keys today
            todays_keys = [job.key for job in self.jobs()]
            known = [*known, *todays_keys]

        if known and not set(known) & set(keys):
            num_known = counted(len(plan["keys"]), "job")
            raise UserError(
                f"{self.path} holds another sweep, of {num_known} and none of these {len(keys)}. "
                "Give this one a folder of its own: hydra.sweep.dir=..."
            )

        self.path.mkdir(parents=True, exist_ok=True)
        all_keys = list(dict.fromkeys([*known, *keys]))
        write_json(plan_file, {"format": JOB_FORMAT, "keys": all_keys})

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
        """Write the table as CSV and Markdown; jobs that end together wait for each other."""
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path / ".summary.lock", wait_seconds=-1):
            rows = [job.row() for job in self.jobs()]

            buffer = io.StringIO()
            writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {column: spreadsheet_cell(cell) for column, cell in row.items()} for row in rows
            )

            # each is replaced whole, so that a reader never sees half a table
            write_text(self.path / "summary.csv", buffer.getvalue())
            write_text(self.path / "summary.md", "\n".join(markdown_table(COLUMNS, rows)) + "\n")

    def failures(self) -> list[str]:
        """A line for each job that is not completed: what it was, why it ended, and where its log lies."""
        return [
            f"{job.path.name}: {job.state}; see {RunFiles(job.path).log}"
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


def _number(folder: Path) -> tuple[int, str]:
    """What the folders of jobs are sorted by, "10_rho=0.1" after "9_rho=0.05"."""
    number = folder.name.partition("_")[0]
    return (int(number) if number.isdigit() else 0, folder.name)
