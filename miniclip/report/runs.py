"""Reading run directories, one or many, and putting together what differs in their seed only."""

import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from miniclip.errors import UserError, counted
from miniclip.files import flatten
from miniclip.metrics import Ranks
from miniclip.runs import RunFiles, find_runs, read_state
from miniclip.runs.job_key import changes_nothing, read_job_key

SEEDS = ("seed", "data.seed")

OF_SAME_DATA = ("data.root", "data.eval_split")
"""Settings that do not tell groups apart: `check_comparable` looks at the data themselves."""

UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
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
        part, record = ("val", self.best) if self.test is None else ("test", self.test)
        return {
            key.removeprefix(f"{part}/"): value
            for key, value in record.items()
            if key.startswith(f"{part}/")
        }

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


class Group(NamedTuple):
    """Runs that differ in their seed only.

    Attributes:
        name: the settings that tell it from the other groups.
        settings: these as {"optimizer.rho": 0.05}; of other optimizers, say, it has none of that name.
    """

    name: str
    settings: dict[str, Any]
    runs: list[Run]

    def values(self, key: str) -> list[float]:
        """A reported metric of each run ("rsum"), or a number of its best record ("train/seconds")."""
        return [(run.best | run.numbers)[key] for run in self.runs]


def read_collection(paths: Iterable[Path]) -> Collection:
    """All runs at or below the paths, each once; of several tries of a sweep's job, the finished one.

    Raises:
        UserError: when a path does not exist or holds no run.
    """
    runs: dict[Path, Run] = {}
    failures: dict[Path, Failure] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist.")
        folders = find_runs(path)
        if not folders:
            raise UserError(f"{path} is no run and holds none (no status.json).")
        for folder in map(Path.resolve, folders):
            try:
                state = read_state(folder)
                if state.status == "completed":
                    runs[folder] = _read_run(folder)
                else:
                    failures[folder] = Failure(folder, *state)
            except UNREADABLE as error:
                failures[folder] = Failure(folder, "unreadable", f"{type(error).__name__}: {error}")
    done = {_job(folder) for folder in runs}
    return Collection(
        list(runs.values()), [failure for failure in failures.values() if _job(failure.path) not in done]
    )


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs that were measured on different data.

    Raises:
        UserError: names the difference.
    """
    for what, values in (
        ("data fingerprints", {run.fingerprint: run.path for run in runs}),
        ("protocols", {run.protocol: run.path for run in runs}),
    ):
        if len(values) > 1:
            examples = "; ".join(f"{value}: {path}" for value, path in list(values.items())[:3])
            raise UserError(
                f"These runs have {len(values)} different {what} and do not compare ({examples}). Report "
                "them apart, or say --mix."
            )


def group_runs(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """Groups in the order of their settings, and the settings in which they differ.

    Runs measured on different data are of different groups; "data" is the setting that tells them apart.
    """
    varied = varied_settings(runs)
    has_one_fingerprint = len({run.fingerprint for run in runs}) == 1
    groups: dict[str, list[Run]] = {}
    settings_of: dict[str, dict[str, Any]] = {}
    for run in runs:
        settings = {setting: run.settings[setting] for setting in varied if setting in run.settings}
        if not has_one_fingerprint:
            settings["data"] = run.fingerprint
        key = json.dumps(settings)
        settings_of[key] = settings
        groups.setdefault(key, []).append(run)
    every = list(settings_of.values())
    found = [
        Group(_name(settings_of[key], every), settings_of[key], sorted(own, key=lambda run: run.seed))
        for key, own in groups.items()
    ]
    varied += [] if has_one_fingerprint else ["data"]
    return sorted(found, key=lambda group: [_order(group.settings.get(key)) for key in varied]), varied


def as_text(value: Any) -> str:
    """A setting as it is typed."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def varied_settings(runs: Sequence[Run]) -> list[str]:
    """Settings that not all runs share, those that only say where and how fast left out."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [
        key
        for key in keys
        if key not in SEEDS + OF_SAME_DATA
        and not changes_nothing(key)
        and not key.endswith("_partial_")
        and len({json.dumps(run.settings.get(key, ...), default=str) for run in runs}) > 1
    ]


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
        fingerprint=" ".join(part["fingerprint"] for name, part in data.items() if name != "train"),
        ranks=_ranks(files.read_ranks(of_test=test is not None)),
        test=test,
        retrieval_figure=figure if figure.is_file() else None,
    )


def _ranks(arrays: dict[str, np.ndarray] | None) -> tuple[Ranks, np.ndarray] | None:
    if arrays is None:
        return None
    ranks = Ranks(*(torch.from_numpy(arrays[name]) for name in Ranks._fields))
    return ranks, arrays["image_of_caption"]


def _job(folder: Path) -> tuple[Path, str]:
    """The sweep and the key of a job; of a single run itself."""
    try:
        key = read_job_key(folder)
    except UNREADABLE:
        key = None
    return (folder, "") if key is None else (folder.parent, key)


def _name(settings: dict[str, Any], every: Sequence[dict[str, Any]]) -> str:
    """What tells a group from every other; of an optimizer, say, what tells it from others of its kind."""
    parts = []
    for key, value in settings.items():
        kinds = [kind for kind in settings if kind.endswith("._target_") and _is_below(key, kind)]
        of_its_kind = [other for other in every if all(other.get(k) == settings[k] for k in kinds)]
        if all(key in other and other[key] == value for other in of_its_kind):
            continue
        if key.endswith("._target_"):
            parts.append(f"{key.split('.')[-2]}={str(value).rsplit('.', 1)[-1]}")
        else:
            text = f"{value:g}" if isinstance(value, float) else as_text(value)
            parts.append(f"{key.rsplit('.', 1)[-1]}={text}")
    return ", ".join(parts) or "all runs"


def _is_below(key: str, target: str) -> bool:
    """Whether a setting is one of the part that a "_target_" names."""
    return key != target and key.startswith(target.removesuffix("_target_"))


def _order(value: Any) -> tuple[int, float, str]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (0, float(value), "")
    return (1, 0.0, str(value))
