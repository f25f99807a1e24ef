"""Groups of runs that differ in their seed only, and what tells the groups apart."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from miniclip.errors import UserError
from miniclip.report.runs import Run
from miniclip.runs.job_key import changes_nothing

SEEDS = ("seed", "data.seed")

DATA = "data"
"""What tells groups apart that were measured on different data; no setting of the config."""

OF_SAME_DATA = ("data.root", "data.eval_split")
"""Settings that do not tell groups apart: `check_comparable` looks at the data themselves."""


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
        """A reported metric of each run, "rsum" say."""
        return [run.numbers[key] for run in self.runs]


def group_runs(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """Groups in the order of their settings, and the settings in which they differ.

    Runs measured on different data are of different groups, which `DATA` tells apart.
    """
    varied = varied_settings(runs)
    has_one_fingerprint = len({run.fingerprint for run in runs}) == 1

    runs_of: dict[str, list[Run]] = {}
    settings_of: dict[str, dict[str, Any]] = {}
    for run in runs:
        settings = {setting: run.settings[setting] for setting in varied if setting in run.settings}
        if not has_one_fingerprint:
            settings[DATA] = run.fingerprint

        # as text, for lists among the settings are no keys themselves
        key = json.dumps({setting: _alike(value) for setting, value in settings.items()})
        settings_of.setdefault(key, settings)
        runs_of.setdefault(key, []).append(run)

    all_settings = list(settings_of.values())
    groups = []
    for key, settings in settings_of.items():
        by_seed = sorted(runs_of[key], key=lambda run: run.seed)
        groups.append(Group(_name(settings, all_settings), settings, by_seed))

    # no setting of the config, but what tells groups apart
    if not has_one_fingerprint:
        varied.append(DATA)
    groups.sort(key=lambda group: [_order(group.settings.get(setting)) for setting in varied])
    return groups, varied


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs that were measured on different data.

    Raises:
        UserError: names the difference.
    """
    _check_shared("data fingerprints", {run.fingerprint: run.path for run in runs})
    _check_shared("protocols", {run.protocol: run.path for run in runs})


def varied_settings(runs: Sequence[Run]) -> list[str]:
    """Settings that not all runs share, those that only say where and how fast left out."""
    # in the order of the config, which a set would lose
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [key for key in keys if _tells_apart(key) and _differs(key, runs)]


def value_of(run: Run, setting: str) -> Any:
    """A setting of a run, or the fingerprint of its data; None if it has none of that name."""
    return run.fingerprint if setting == DATA else run.settings.get(setting)


def data_settings(run: Run) -> str:
    """The settings that say what data a run reads, as text: its root is one, its seeds are none."""
    read = {
        key: _alike(value)
        for key, value in run.settings.items()
        if key.startswith("data.") and (key == "data.root" or _tells_apart(key))
    }
    return json.dumps(read, sort_keys=True, default=str)


def as_text(value: Any) -> str:
    """A setting as it is typed."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def is_number(value: object) -> bool:
    """Whether a setting is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tells_apart(key: str) -> bool:
    """Whether runs that differ in a setting are of different groups."""
    is_left_out = key in SEEDS or key in OF_SAME_DATA or key.endswith("_partial_")
    return not is_left_out and not changes_nothing(key)


def _differs(key: str, runs: Sequence[Run]) -> bool:
    """Whether not all runs have the same value of a setting; one that lacks it has another."""
    # as text, for lists are in no set; an ellipsis is no value of JSON, and stands for a missing one
    values = {json.dumps(_alike(run.settings.get(key, ...)), default=str) for run in runs}
    return len(values) > 1


def _alike(value: Any) -> Any:
    """A setting such that equal numbers, also in lists, have one text: 0 of 0.0."""
    if isinstance(value, list):
        return [_alike(each) for each in value]
    is_whole = isinstance(value, float) and value.is_integer()
    return int(value) if is_whole else value


def _check_shared(what: str, path_by_value: dict[str, Path]) -> None:
    """Refuse several values where all runs must have the same.

    Args:
        path_by_value: each value with a run that has it.
    """
    if len(path_by_value) > 1:
        first_three = list(path_by_value.items())[:3]
        examples = "; ".join(f"{value}: {path}" for value, path in first_three)
        raise UserError(
            f"These runs have {len(path_by_value)} different {what} and do not compare ({examples}). "
            "Report them apart, or say --mix."
        )


def _name(settings: dict[str, Any], all_settings: Sequence[dict[str, Any]]) -> str:
    """What tells a group from every other; of an optimizer, say, what tells it from others of its kind."""
    parts = []
    for key, value in settings.items():
        of_its_kind = [other for other in all_settings if _is_of_one_kind(key, settings, other)]
        is_shared = all(key in other and other[key] == value for other in of_its_kind)
        if not is_shared:
            values = [other[key] for other in all_settings if key in other]
            parts.append(_in_words(key, value, values))
    return ", ".join(parts) or "all runs"


def _is_of_one_kind(key: str, settings: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two groups make the part that has a setting, and those around it, of the same classes."""
    targets = [target for target in settings if target.endswith("._target_") and _is_below(key, target)]
    return all(other.get(target) == settings[target] for target in targets)


def _is_below(key: str, target: str) -> bool:
    """Whether a setting is one of the part that a "_target_" names."""
    return key != target and key.startswith(target.removesuffix("_target_"))


def _in_words(key: str, value: Any, values: Sequence[Any]) -> str:
    """A setting in the name of a group: "rho=0.05", and of a class "optimizer=SAM".

    Args:
        values: of all groups, from which it is told.
    """
    if key.endswith("._target_"):
        part = key.split(".")[-2]
        class_name = str(value).rsplit(".", 1)[-1]
        return f"{part}={class_name}"

    name = key.rsplit(".", 1)[-1]
    text = _in_short(value, values) if isinstance(value, float) else as_text(value)
    return f"{name}={text}"


def _in_short(value: float, values: Sequence[Any]) -> str:
    """A number with six digits, or with all where six do not tell it from the others."""
    text = f"{value:g}"
    alike = {other for other in values if is_number(other) and f"{other:g}" == text}
    return text if len(alike) == 1 else str(value)


def _order(value: Any) -> tuple[int, float, str]:
    """What settings are sorted by: numbers first."""
    if is_number(value):
        return (0, float(value), "")
    return (1, 0.0, str(value))
