"""Finished runs as a report reads them from their directories, and those that came to nothing."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image

from miniclip.errors import UserError, counted
from miniclip.files import flatten
from miniclip.metrics import Ranks, recall_keys
from miniclip.runs import DamagedFile, RunFiles, find_runs, read_state
from miniclip.runs.collapse import has_collapsed
from miniclip.runs.job_key import read_job_key
from miniclip.runs.shapes import NUMBER, TEXT, Shape, check_shape
from miniclip.runs.small_files import (
    damaged,
    read_bytes,
)
from miniclip.runs.state import UNREADABLE
from miniclip.runs.sweep import Sweep, find_sweeps

MEASURES = ("rsum", *recall_keys())
"""The metrics that a report shows of each run."""

T = TypeVar("T")

MOST_BYTES_OF_FIGURE = 2**25


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
        trained_on: fingerprint of the training part.
        overrides: what was typed for it, ["optimizer=sam"]; None if unknown.
        steps: of the whole run, skipped ones included; 0 if unknown.
        skipped_steps: those whose gradient was not finite.
        whole_seconds: what the run took, from its start to its end; None if unknown.
        damages: which of its files the report has to do without, and why.
    """

    path: Path
    settings: dict[str, Any]
    best: dict[str, Any]
    validations: list[dict[str, Any]]
    fingerprint: str
    ranks: tuple[Ranks, np.ndarray] | None
    test: dict[str, Any] | None = None
    retrieval_figure: Path | None = None
    trained_on: str | None = None
    overrides: list[str] | None = None
    steps: int = 0
    skipped_steps: int = 0
    whole_seconds: float | None = None
    damages: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        return self.settings.get("seed", 0)

    @property
    def flags(self) -> list[str]:
        """The flags that were typed before its overrides; none where their file is damaged."""
        return _without_damaged(RunFiles(self.path).read_flags, []) or []

    @property
    def has_collapsed(self) -> bool:
        """Whether the features of its best weights do not spread."""
        return has_collapsed(self.best)

    @property
    def seconds(self) -> float:
        """What the whole run took; of one that does not say so its training, to the last validation."""
        if self.whole_seconds is not None:
            return self.whole_seconds
        told = [record.get("train/seconds") for record in (self.best, *self.validations)]
        return max(seconds for seconds in told if isinstance(seconds, int | float))

    @property
    def protocol(self) -> str:
        """What the reported numbers were measured on."""
        return (self.best if self.test is None else self.test)["protocol"]

    @property
    def kind(self) -> str:
        """What the reported numbers are."""
        if self.test is None:
            count = len(self.validations)
            return f"best of {counted(count, 'validation') if count else 'all validations'}"
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
    """A run without a result.

    Attributes:
        overrides: of the job of a sweep that it is, where they are known.
    """

    path: Path
    status: str
    reason: str
    overrides: Sequence[str] = ()


class Collection(NamedTuple):
    """What was found below some paths.

    Attributes:
        unstarted: a sentence for each sweep of which some jobs have not begun.
    """

    runs: list[Run]
    failures: list[Failure]
    unstarted: Sequence[str] = ()


def read_collection(paths: Iterable[Path]) -> Collection:
    """All runs at or below the paths, each once; of several tries of a sweep's job, the finished one.

    Raises:
        UserError: when a path does not exist or holds no run.
    """
    paths = list(paths)
    runs: dict[Path, Run] = {}
    failures: dict[Path, Failure] = {}
    for folder in _run_folders(paths):
        found = _read(folder)
        if isinstance(found, Run):
            runs[folder] = found
        else:
            failures[folder] = found

    # what one try of a job failed to do, another has done; so has a run that went on in its place
    jobs_done = {_job(folder) for folder in runs}
    still_failed = [
        failure
        for failure in failures.values()
        if _job(failure.path) not in jobs_done and _last_heir(failure.path) not in runs
    ]
    return Collection(list(runs.values()), still_failed, list(_unstarted(paths)))


def _run_folders(paths: Iterable[Path]) -> Iterator[Path]:
    """Real paths of the run directories at or below some paths."""
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist.")

        folders = find_runs(path)
        if not folders:
            raise UserError(f"{path} is no run and holds none (no status.json).")
        yield from map(Path.resolve, folders)


def _unstarted(paths: Iterable[Path]) -> Iterator[str]:
    """Of each sweep at or below some paths how many jobs have not begun, if there are any."""
    sweeps = {sweep.resolve(): sweep for path in paths for sweep in find_sweeps(path)}
    for sweep in map(Sweep, sweeps.values()):
        planned, unstarted = sweep.num_jobs()
        if unstarted:
            verb = "has" if unstarted == 1 else "have"
            yield f"{unstarted} of {counted(planned, 'job')} of {sweep.path} {verb} not started."


def _read(folder: Path) -> Run | Failure:
    """A run that is completed, or why there is no result of it."""
    state = read_state(folder)
    if state.status != "completed":
        return Failure(folder, *state, overrides=_overrides_of_job(folder))
    try:
        return _read_run(folder)
    except DamagedFile as error:
        return Failure(folder, UNREADABLE, str(error), overrides=_overrides_of_job(folder))


def _read_run(folder: Path) -> Run:
    files = RunFiles(folder)
    files.check_links()  # which no damage makes: nothing of such a folder is shown
    summary = files.read_summary()
    test = summary.get("test")
    _check_measured(files.summary, summary, "best", **{"train/seconds": NUMBER, **_numbers("val")})
    if test is not None:
        _check_measured(files.summary, summary, "test", **_numbers("test"))

    damages: list[str] = []
    return Run(
        path=folder,
        settings=flatten(files.read_config()),
        best=summary["best"],
        validations=_without_damaged(lambda: _validations(files), damages) or [],
        fingerprint=_fingerprint(files),
        ranks=_without_damaged(lambda: _ranks(files.read_ranks(of_test=test is not None)), damages),
        test=test,
        retrieval_figure=_without_damaged(lambda: _figure(files.retrieval_figure), damages),
        trained_on=files.read_data().get("train", {}).get("fingerprint"),
        overrides=_without_damaged(files.read_overrides, damages),
        steps=summary.get("steps", 0),
        skipped_steps=summary.get("skipped_steps", 0),
        whole_seconds=summary.get("seconds"),
        damages=tuple(damages),
    )


def _without_damaged(read: Callable[[], T], damages: list[str]) -> T | None:
    """What a report can do without: None where the file is damaged, which is noted."""
    try:
        return read()
    except DamagedFile as error:
        damages.append(str(error))
        return None


def _check_measured(path: Path, summary: dict[str, Any], record: str, **numbers: Shape) -> None:
    """Refuse a record of the best validation, or of the test, that lacks what a report shows."""
    try:
        check_shape(summary, {record: {"protocol": TEXT, **numbers}})
    except ValueError as error:
        raise damaged(path, error) from None


def _numbers(part: str) -> dict[str, Shape]:
    return {f"{part}/{measure}": NUMBER for measure in MEASURES}


def _fingerprint(files: RunFiles) -> str:
    """Of all parts that are measured: runs compare that share them, whatever they trained on."""
    data = files.read_data()
    measured = [part["fingerprint"] for name, part in data.items() if name != "train"]
    if not measured:
        raise damaged(files.environment, "it does not say which data were measured")
    return " ".join(measured)


def _validations(files: RunFiles) -> list[dict[str, Any]]:
    return [record for record in files.read_metrics() if "val/rsum" in record]


def _ranks(arrays: dict[str, np.ndarray] | None) -> tuple[Ranks, np.ndarray] | None:
    if arrays is None:
        return None
    # images (N,) and captions (M,)
    ranks = Ranks(*(torch.from_numpy(arrays[name]) for name in Ranks._fields))
    return ranks, arrays["image_of_caption"]


def _figure(path: Path) -> Path | None:
    """A figure that a page can show; None if there is none."""
    content = read_bytes(path, MOST_BYTES_OF_FIGURE)
    if content is None:
        return None
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.verify()
    except Exception:  # Pillow's readers raise almost any
        raise damaged(path, "it is no figure") from None
    return path


def _overrides_of_job(folder: Path) -> Sequence[str]:
    try:
        return RunFiles(folder).read_job().get("overrides", ())
    except DamagedFile:
        return ()


def _last_heir(folder: Path) -> Path:
    """The directory in which a run has gone on last, real; of one that has not, its own."""
    seen: set[Path] = set()
    while folder not in seen:
        seen.add(folder)
        try:
            heir = RunFiles(folder).read_heir()
        except (DamagedFile, OSError):
            return folder
        folder = folder if heir is None else heir.resolve()
    return folder


def _job(folder: Path) -> tuple[Path, str]:
    """The sweep and the key of a job; of a single run itself."""
    try:
        key = read_job_key(folder)
    except DamagedFile:
        key = None
    return (folder, "") if key is None else (folder.parent, key)
