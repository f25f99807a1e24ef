"""The charts of a report: groups side by side, the recall over a setting, and the way there."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from miniclip.figures import GRAY, SERIES, new_figure, save, tidy
from miniclip.report.runs import Group, as_text
from miniclip.report.statistics import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "os^Dv*P"
MOST_NAMED = len(SERIES)
"""More groups than this share one grey: colours that can be told apart are few."""

PANELS = (
    ("val/loss", "validation loss", "step", "steps", 1),
    ("val/rsum", "rsum", "step", "steps", 1),
    ("val/rsum", "rsum", "train/forward_passes", "forward passes", 1),
    ("val/rsum", "rsum", "train/seconds", "minutes", 60),
)


def draw_groups(groups: Sequence[Group], path: Path) -> Path:
    """Draw the rsum of every run, and each group's mean with its 95 % interval over seeds."""
    figure, axes = new_figure(1, 1, size=(9, 1.4 + 0.32 * len(groups)))
    axis: Axes = axes[0, 0]
    for row, group in enumerate(groups):
        values = group.values("rsum")
        axis.plot(values, [row] * len(values), "o", color=GRAY, markersize=4, alpha=0.8)
        found = spread(values)
        axis.plot(found.mean, row, "D", color=_colour(row), markersize=6)
        if found.num_seeds > 1:
            axis.plot([found.low, found.high], [row, row], color=_colour(row), lw=1.5)
    names = [_short(group.name, 70) for group in groups]
    axis.set_yticks(range(len(groups)), names, fontsize=8, parse_math=False)
    axis.invert_yaxis()
    tidy(axis, "rsum: every seed, mean and 95 % interval")
    axis.set_xlabel("rsum", fontsize=9)
    return save(figure, path)


def draw_axis(groups: Sequence[Group], setting: str, path: Path) -> Path | None:
    """Draw rsum over a setting with at least three numbers; None where it has not.

    Groups that share all other settings are one line; one without a number, full attention among Linformers
    say, is a broken line across. A setting that spans a factor of ten has a logarithmic axis, on which
    zero has a place of its own.
    """
    numbers = [group for group in groups if _is_number(group.settings.get(setting))]
    values = sorted({group.settings[setting] for group in numbers})
    if len(values) < 3:
        return None
    figure, axes = new_figure(1, 1, size=(7, 4))
    axis: Axes = axes[0, 0]
    lines: dict[str, list[Group]] = {}
    for group in numbers:
        rest = ", ".join(
            f"{key.rsplit('.', 1)[-1]}={as_text(value)}"
            for key, value in group.settings.items()
            if key != setting
        )
        lines.setdefault(rest, []).append(group)
    for place, (name, own) in enumerate(sorted(lines.items(), key=lambda line: -len(line[1]))):
        own.sort(key=lambda group: group.settings[setting])
        spreads = [spread(group.values("rsum")) for group in own]
        xs = [group.settings[setting] for group in own]
        halves = [0.0 if math.isnan(s.low) else s.high - s.mean for s in spreads]
        axis.errorbar(
            xs,
            [s.mean for s in spreads],
            yerr=halves,
            color=_colour(place),
            marker=MARKERS[place % len(MARKERS)],
            markersize=5,
            capsize=3,
            label=_short(name, 50) if name and place < MOST_NAMED else None,
        )
    for group in groups:
        if setting in group.settings and group not in numbers:
            name = f"{setting.rsplit('.', 1)[-1]}={as_text(group.settings[setting])}"
            axis.axhline(spread(group.values("rsum")).mean, color=GRAY, ls="--", lw=1.2, label=name)
    positive = [value for value in values if value > 0]
    if positive and max(positive) / min(positive) >= 10:
        if min(values) > 0:
            axis.set_xscale("log")
        else:
            axis.set_xscale("symlog", linthresh=min(positive), linscale=0.5)
        axis.set_xticks(values, [f"{value:g}" for value in values])
        axis.minorticks_off()
    tidy(axis, f"rsum over {setting}; bars: 95 % over seeds")
    axis.set_xlabel(setting, fontsize=9)
    axis.set_ylabel("rsum", fontsize=9)
    return save(figure, path)


def draw_progress(groups: Sequence[Group], path: Path) -> Path:
    """Draw loss and rsum against steps, rsum against forward passes and time: SAM pays double."""
    figure, axes = new_figure(2, 2, size=(11, 8))
    for axis, (measure, title, cost, unit, scale) in zip(axes.flat, PANELS, strict=True):
        for place, group in enumerate(groups):
            for number, run in enumerate(group.runs):
                points = [
                    (record[cost] / scale, record[measure])
                    for record in run.validations
                    if record.get(cost) is not None and record.get(measure) is not None
                ]
                if not points:
                    continue
                xs, ys = zip(*points, strict=True)
                axis.plot(
                    xs,
                    ys,
                    color=_colour(place),
                    marker=MARKERS[place % len(MARKERS)],
                    markersize=3,
                    lw=1,
                    alpha=0.85,
                    label=_short(group.name, 40) if number == 0 and place < MOST_NAMED else None,
                )
        tidy(axis, f"{title} against {unit}", legend=axis is axes[0, 0] and len(groups) > 1)
        axis.set_xlabel(unit, fontsize=9)
    return save(figure, path)


def _colour(place: int) -> str:
    return SERIES[place] if place < MOST_NAMED else GRAY


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
