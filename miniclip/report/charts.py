"""Charts of a report: groups side by side, the recall over a setting, and the curves of training."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miniclip.figures import GRAY, SERIES, new_figure, save, tidy
from miniclip.report.groups import Group, as_text, is_number
from miniclip.report.runs import Run
from miniclip.report.statistics import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "os^Dv*P"

MAX_COLORS = len(SERIES)
"""Groups beyond these share one gray: colors that can be told apart are few."""

MAX_TICKS = 8
"""More ticks than this do not stand beside each other on an axis."""

MAX_LETTERS_OF_TICK = 7

LOG_RATIO = 10
"""A setting whose values span this factor has a logarithmic axis."""


class Panel(NamedTuple):
    """One chart of `draw_progress`: a measure over what it took to reach it.

    Attributes:
        measure, cost: keys of a validation record.
        title, unit: these in words.
        scale: how many of the record's units are one of the chart's.
    """

    measure: str
    title: str
    cost: str
    unit: str
    scale: float = 1


PANELS = (
    Panel("val/loss", "validation loss", "step", "steps"),
    Panel("val/rsum", "rsum", "step", "steps"),
    Panel("val/rsum", "rsum", "train/forward_passes", "forward passes"),
    Panel("val/rsum", "rsum", "train/seconds", "minutes of training", scale=60),
)


def draw_groups(groups: Sequence[Group], path: Path) -> Path:
    """Draw the rsum of every run, and each group's mean with its 95 % interval over seeds."""
    figure, axes = new_figure(1, 1, size=(9, 1.4 + 0.32 * len(groups)))
    axis: Axes = axes[0, 0]

    for row, group in enumerate(groups):
        values = group.values("rsum")
        over_seeds = spread(values)
        color = _color(row)

        axis.plot(values, [row] * len(values), "o", color=GRAY, markersize=4, alpha=0.8)
        axis.plot(over_seeds.mean, row, "D", color=color, markersize=6)
        if over_seeds.num_seeds > 1:
            axis.plot([over_seeds.low, over_seeds.high], [row, row], color=color, lw=1.5)

    names = [_short(group.name, 70) for group in groups]
    axis.set_yticks(range(len(groups)), names, fontsize=8)
    axis.invert_yaxis()  # the first group on top, as in the table
    tidy(axis, "rsum: every seed, mean and 95 % interval", xlabel="rsum")
    return save(figure, path)


def draw_axis(groups: Sequence[Group], setting: str, path: Path) -> Path | None:
    """Draw rsum over a setting with at least three numbers; None where it has not.

    Groups that share all other settings are one line; one without a number, full attention among Linformers
    say, is a broken line across. A setting that spans a factor of ten has a logarithmic axis, on which
    zero has a place of its own.
    """
    with_number = [group for group in groups if is_number(group.settings.get(setting))]
    values = sorted({group.settings[setting] for group in with_number})
    if len(values) < 3:
        return None

    figure, axes = new_figure(1, 1, size=(7, 4))
    axis: Axes = axes[0, 0]
    indices: dict[str, int] = {}
    for index, (name, line) in enumerate(_lines(with_number, setting)):
        _draw_line(axis, line, setting, name=name, index=index)
        indices[name] = index

    for group in groups:
        if setting in group.settings and group not in with_number:
            _draw_across(axis, group, index=indices.get(_shared(group, setting), MAX_COLORS))

    _scale(axis, values)
    tidy(axis, f"rsum over {setting}; bars: 95 % over seeds", xlabel=setting)
    axis.set_ylabel("rsum", fontsize=9)
    return save(figure, path)


def draw_progress(groups: Sequence[Group], path: Path) -> Path:
    """Draw loss and rsum against steps, rsum against forward passes and time: SAM pays double."""
    figure, axes = new_figure(2, 2, size=(11, 8))
    panels = [_fitting(panel, groups) for panel in PANELS]
    for axis, panel in zip(axes.flat, panels, strict=True):
        for index, group in enumerate(groups):
            _draw_curves(axis, group, panel, index=index)

        # the same groups in the same colors: one legend is enough for all
        has_legend = axis is axes[0, 0] and len(groups) > 1
        tidy(axis, f"{panel.title} against {panel.unit}", xlabel=panel.unit, legend=has_legend)
    return save(figure, path)


def _lines(groups: Sequence[Group], setting: str) -> list[tuple[str, list[Group]]]:
    """Groups that share all settings but one, under what they share; the longest line first."""
    lines: dict[str, list[Group]] = {}
    for group in groups:
        lines.setdefault(_shared(group, setting), []).append(group)

    return sorted(lines.items(), key=lambda line: -len(line[1]))


def _shared(group: Group, setting: str) -> str:
    """The settings of a group but for one: what the line is called that it belongs to."""
    return ", ".join(_in_short(key, value) for key, value in group.settings.items() if key != setting)


def _draw_line(axis: "Axes", groups: Sequence[Group], setting: str, *, name: str, index: int) -> None:
    """Draw the mean rsum of groups over a setting, with bars for its interval over seeds."""
    in_order = sorted(groups, key=lambda group: group.settings[setting])
    spreads = [spread(group.values("rsum")) for group in in_order]
    # one seed has no interval
    half_intervals = [0.0 if math.isnan(found.low) else found.high - found.mean for found in spreads]

    axis.errorbar(
        [group.settings[setting] for group in in_order],
        [found.mean for found in spreads],
        yerr=half_intervals,
        color=_color(index),
        marker=_marker(index),
        markersize=5,
        capsize=3,
        label=_label(name, index, limit=50),
    )


def _draw_across(axis: "Axes", group: Group, *, index: int) -> None:
    """Draw the mean rsum of a group whose setting is no number, in the color of its line."""
    mean = spread(group.values("rsum")).mean
    axis.axhline(mean, color=_color(index), ls="--", lw=1.2, label=_short(group.name, 50))


def _scale(axis: "Axes", values: Sequence[float]) -> None:
    """Make an axis logarithmic whose values, in order, span a factor of ten; zero keeps a place."""
    positive = [value for value in values if value > 0]
    if not positive or max(positive) / min(positive) < LOG_RATIO:
        return

    # a logarithm has no place for zero: below the smallest value the axis is linear
    if min(values) > 0:
        axis.set_xscale("log")
    else:
        axis.set_xscale("symlog", linthresh=min(positive), linscale=0.5)
    places = axis.xaxis.get_transform().transform(np.array(values, dtype=float)).tolist()
    ticks = [values[number] for number in _apart(places)]
    axis.set_xticks(ticks, [_tick_label(value) for value in ticks])
    axis.minorticks_off()


def _apart(places: Sequence[float]) -> list[int]:
    """Which of some places on an axis, in order, can have a tick: both ends, between them what has room."""
    first, last = places[0], places[-1]
    room = (last - first) / (MAX_TICKS - 0.5)  # also for as many that are evenly apart
    kept = [0]
    for number, place in enumerate(places):
        if min(place - places[kept[-1]], last - place) > room:
            kept.append(number)
    return [*kept, len(places) - 1]


def _tick_label(value: float) -> str:
    """A number in six digits, or in three where six are too long to stand beside others."""
    text = f"{value:g}"
    return text if len(text) <= MAX_LETTERS_OF_TICK else f"{value:.3g}"


def _draw_curves(axis: "Axes", group: Group, panel: Panel, *, index: int) -> None:
    """Draw a curve for each run of a group, the first one with the group's name."""
    label = _label(group.name, index, limit=40)
    for run in group.runs:
        points = _points(run, panel)
        if not points:
            continue

        xs, ys = zip(*points, strict=True)
        axis.plot(
            xs,
            ys,
            color=_color(index),
            marker=_marker(index),
            markersize=3,
            lw=1,
            alpha=0.85,
            label=label,
        )
        label = None  # a group stands in the legend once


def _fitting(panel: Panel, groups: Sequence[Group]) -> Panel:
    """A panel of minutes as one of seconds where all its runs are within a minute."""
    runs = [run for group in groups for run in group.runs]
    costs = [cost * panel.scale for run in runs for cost, _ in _points(run, panel)]
    if panel.scale == 1 or max(costs, default=0) >= panel.scale:
        return panel
    return panel._replace(unit=panel.unit.replace("minutes", "seconds"), scale=1)


def _points(run: Run, panel: Panel) -> list[tuple[float, float]]:
    """Cost and measure of each validation that knows both."""
    return [
        (record[panel.cost] / panel.scale, record[panel.measure])
        for record in run.validations
        if record.get(panel.cost) is not None and record.get(panel.measure) is not None
    ]


def _color(index: int) -> str:
    return SERIES[index] if index < MAX_COLORS else GRAY


def _label(name: str, index: int, *, limit: int) -> str | None:
    """What a line is called in the legend; the first of those that share one gray stands for them all."""
    if index < MAX_COLORS:
        return _short(name, limit) or None
    return "others" if index == MAX_COLORS else None


def _marker(index: int) -> str:
    return MARKERS[index % len(MARKERS)]


def _in_short(key: str, value: Any) -> str:
    """A setting by its last name: "rho=0.05"."""
    name = key.rsplit(".", 1)[-1]
    return f"{name}={as_text(value)}"


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
