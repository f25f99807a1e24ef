"""What a report says, whatever its format: sections of remarks, tables, figures and commands."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from miniclip.errors import as_override, counted, visible, without_secrets
from miniclip.metrics import recall_titles
from miniclip.report.charts import draw_axis, draw_groups, draw_progress
from miniclip.report.groups import DATA, SEEDS, Group, as_text, data_settings
from miniclip.report.runs import Collection, Failure, Run
from miniclip.report.statistics import Comparison, compare, spread
from miniclip.runs.job_key import HELPER, changes_nothing

MAX_COLUMNS = 12
"""More groups than this fit into no table with a column for each."""

MAX_NAMES = 5
"""How many runs a remark names."""

MANY_SKIPPED = 0.1
"""A run that skips a larger fraction of its steps is told."""


@dataclass
class Section:
    """A part of the report.

    Attributes:
        remarks: paragraphs, warnings among them.
        table: header and rows, or none.
        figures: files to show.
        commands: lines to paste into a shell.
    """

    title: str
    remarks: list[str] = field(default_factory=list)
    table: list[list[str]] = field(default_factory=list)
    figures: list[Path] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


def sections_of(
    collection: Collection, groups: list[Group], varied: list[str], *, controls: list[Group], folder: Path
) -> list[Section]:
    """All sections, in the order of the page.

    Args:
        groups: the collection's runs; see `group_runs`.
        varied: settings in which they differ.
        controls: the group that each is held against; a control is its own.
        folder: where figures are drawn.
    """
    # chosen by validation, also where a test part is reported: else it would be chosen by the test
    best = max(collection.runs, key=lambda run: (not run.has_collapsed, run.best["val/rsum"]))
    sections = [
        Section(
            "Runs",
            remarks=[
                *_summary(collection.runs, groups, best),
                *(f"Warning: {sentence}" for sentence in collection.unstarted),
                *_warnings(collection.runs, groups),
            ],
            table=_table_of_groups(groups, controls),
            figures=[draw_groups(groups, folder / "groups.svg")],
        )
    ]

    # a setting of fewer than three numbers gives no chart
    axes = [draw_axis(groups, setting, folder / f"axis{n}.svg") for n, setting in enumerate(varied)]
    drawn = [path for path in axes if path is not None]
    if drawn:
        sections.append(Section("Over each setting", figures=drawn))

    costs = "SAM needs two forward passes per step: compare at equal cost, too."
    curves = draw_progress(groups, folder / "curves.svg")
    sections.append(Section("Curves", remarks=[costs], figures=[curves]))

    if varied:
        sections += _settings(groups, varied)
    if best.retrieval_figure is not None:
        sections.append(Section("The best run's retrieval", figures=[best.retrieval_figure]))
    if collection.failures:
        sections.append(_failures(collection.failures))
    return sections


def _summary(runs: Sequence[Run], groups: Sequence[Group], best: Run) -> list[str]:
    """How many runs there are, what was measured, and which is best."""
    sizes = f"{counted(len(runs), 'run')} in {counted(len(groups), 'group')}"
    kinds = "; ".join(dict.fromkeys(run.kind for run in runs))
    measured = dict.fromkeys(f"{run.protocol}; data {run.fingerprint}" for run in runs)
    different = f"measured on {len(measured)} different data: " if len(measured) > 1 else ""
    return [
        f"{sizes}; {different}{' | '.join(measured)}.",
        f"The numbers are: {kinds}. Times are those of whole runs, with validation and saving.",
        "Better or worse is what lies outside of the 95 % intervals over seeds and over images.",
        f"Best on validation: {best.path.name}, seed {best.seed}, rsum {best.rsum:.1f} ({best.protocol}).",
    ]


def _warnings(runs: Sequence[Run], groups: Sequence[Group]) -> list[str]:
    """What the numbers cannot say."""
    remarks = []
    if any(run.test is None for run in runs):
        remarks.append(
            "A best of several validations is higher than a new sample would give; "
            "data.seeded_test_fraction sets a test part apart."
        )
    if any(len(group.runs) == 1 for group in groups):
        remarks.append("Warning: groups of one seed say nothing of the noise between seeds.")
    if any(_repeats_a_seed(group) for group in groups):
        remarks.append("Warning: a group holds a seed more than once; its interval is too narrow.")
    remarks += [
        f"Warning: runs of the group {group.name} were trained on other images or captions, from "
        f"{', '.join(roots)}. They are no seeds of one study, unless seeds choose them."
        for group in groups
        if len(roots := _roots_of_other_data(group)) > 1
    ]
    remarks += _of_edited_data(runs)
    remarks += _of_skipped_steps(runs)
    collapsed = [run.path.name for run in runs if run.has_collapsed]
    if collapsed:
        remarks.append(
            "Warning: the features of these runs do not spread, like those of an untrained network: "
            f"{_some(collapsed)}. None of them is called the best where there is another."
        )
    damages = [damage for run in runs for damage in run.damages]
    remarks += [f"Warning: {damage} The report does without it." for damage in damages]
    return remarks


def _of_edited_data(runs: Sequence[Run]) -> list[str]:
    """A warning for each choice of data that was other training images or captions in some of the runs."""
    names_of: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        if run.trained_on is not None:
            names = names_of.setdefault(data_settings(run), {})
            names.setdefault(run.trained_on, []).append(run.path.name)

    remarks = []
    for names in names_of.values():
        if len(names) > 1:
            told = "; ".join(f"{fingerprint}: {_some(those)}" for fingerprint, those in names.items())
            remarks.append(
                "Warning: runs of the same data.* settings were trained on other images or captions "
                f"({told}). Either the files were edited between them, and their difference is that of the "
                "data, too, or seeds choose what is trained on."
            )
    return remarks


def _of_skipped_steps(runs: Sequence[Run]) -> list[str]:
    """A warning of the runs that skipped many of their steps, if there are any."""
    told = [
        f"{run.path.name} ({run.skipped_steps} of {run.steps})"
        for run in runs
        if run.skipped_steps > MANY_SKIPPED * run.steps
    ]
    if not told:
        return []
    return [
        f"Warning: more than a tenth of the steps were skipped, their gradient not finite: {_some(told)}. "
        "Their numbers are of fewer steps than they were to train."
    ]


def _some(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    num_more = len(names) - MAX_NAMES
    more = f" and {num_more} more" if num_more > 0 else ""
    return ", ".join(names[:MAX_NAMES]) + more


def _repeats_a_seed(group: Group) -> bool:
    seeds = {tuple(run.settings.get(key) for key in SEEDS) for run in group.runs}
    return len(seeds) < len(group.runs)


def _roots_of_other_data(group: Group) -> list[str]:
    """The places of a group's training data, where these are not the same."""
    roots = {run.trained_on: str(run.settings.get("data.root")) for run in group.runs}
    return sorted(set(roots.values()))


def _table_of_groups(groups: Sequence[Group], controls: Sequence[Group]) -> list[list[str]]:
    """A row for each group: its recalls, its time, and how it stands beside its control."""
    titles = {**recall_titles(), "rsum": "rsum"}
    times, unit = _mean_times(groups)
    header = ["group", "seeds", *titles.values(), unit]
    if len(groups) > 1:
        header += ["against the control", "verdict"]
    rows = [header]
    names = {control.name for control in controls}

    for group, control, time in zip(groups, controls, times, strict=True):
        metrics = [_with_spread(group.values(metric)) for metric in titles]
        row = [group.name, str(len(group.runs)), *metrics, f"{time:.1f}"]
        rows.append(row)
        if len(groups) == 1:  # there is none to hold it against
            continue

        difference, verdict = ("control", "") if group is control else _beside(compare(group, control))
        if group is not control and len(names) > 1:
            difference += f"\nof {control.name}"
        row += [difference, verdict]
    return rows


def _mean_times(groups: Sequence[Group]) -> tuple[list[float], str]:
    """What each group's runs took on average, and the unit: minutes where all of them took one."""
    seconds = [spread([run.seconds for run in group.runs]).mean for group in groups]
    if min(seconds) < 60:
        return seconds, "seconds"
    return [each / 60 for each in seconds], "minutes"


def _with_spread(values: Sequence[float]) -> str:
    """Mean, standard deviation and interval; the number alone of one seed."""
    found = spread(values)
    if found.num_seeds == 1:
        return f"{found.mean:.1f}"
    return f"{found.mean:.1f} ± {found.deviation:.1f}\n({found.low:.1f} to {found.high:.1f})"


def _beside(found: Comparison) -> tuple[str, str]:
    """A difference with its interval, and the verdict."""
    interval = "" if math.isnan(found.low) else f"\n({found.low:+.1f} to {found.high:+.1f})"
    return f"{found.difference:+.1f}{interval}", found.remark


def _settings(groups: Sequence[Group], varied: Sequence[str]) -> list[Section]:
    """Settings that differ, as a table and as they are typed."""
    differ = Section("Settings that differ")
    if len(groups) <= MAX_COLUMNS:
        differ.table = _table_of_settings(groups, varied)
    else:
        differ.remarks.append(f"{', '.join(varied)}: see report.csv.")

    typed = Section(
        "As overrides",
        remarks=[
            "A line for each group, in the same order: what was typed for it, but for its seeds. One that "
            "begins with # is not to be typed."
        ],
        commands=[_as_overrides(group) for group in groups],
    )
    return [differ, typed]


def _table_of_settings(groups: Sequence[Group], varied: Sequence[str]) -> list[list[str]]:
    """A row for each setting, a column for each group."""
    numbers = [f"group {number}" for number in range(1, len(groups) + 1)]
    rows = [["setting", *numbers]]
    for setting in varied:
        values = [as_text(group.settings[setting]) if setting in group.settings else "" for group in groups]
        rows.append([setting, *values])
    return rows


def _as_overrides(group: Group) -> str:
    """What was typed for a group; if that is unknown, the settings that tell it apart."""
    first = group.runs[0]
    if first.overrides is not None:
        words = [*first.flags, *(word for word in first.overrides if _is_typed_again(word))]
        line = " ".join(shlex.quote(without_secrets(word)) for word in words)
        return visible(line) or "# nothing: all settings are the defaults"

    # what its data are is no setting
    settings = {key: value for key, value in group.settings.items() if key != DATA}
    line = visible(" ".join(as_override(key, value) for key, value in settings.items()))
    # a class is not typed: its option is, whose name no config tells
    has_class = any(key.endswith("_target_") for key in settings)
    return _as_comment(line) if has_class else line


def _is_typed_again(word: str) -> bool:
    """Whether an override is one of the whole group, and of what it computes."""
    key = word.lstrip("+~").partition("=")[0].replace("/", ".")
    # a helper changes nothing itself, but others take their values from it
    return key not in SEEDS and (key.startswith(HELPER) or not changes_nothing(key))


def _as_comment(text: str) -> str:
    """Text whose lines a shell skips, each of them."""
    return "\n".join(f"# {line}" for line in text.splitlines())


def _failures(failures: Sequence[Failure]) -> Section:
    rows = []
    for failure in failures:
        # a path among its settings, of its data say, is not in the name of a job's folder
        paths = [
            visible(without_secrets(word)) for word in failure.overrides if "/" in word.partition("=")[2]
        ]
        rows.append(["\n".join([failure.path.name, *paths]), failure.status, failure.reason])
    return Section(
        "Failures",
        remarks=[f"{counted(len(failures), 'run')} without a result."],
        table=[["run", "status", "reason"], *rows],
    )
