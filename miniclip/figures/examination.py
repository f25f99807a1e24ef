"""Figure of `miniclip doctor`: lengths of captions, findings among the images, sizes of classes."""

from pathlib import Path
from typing import TYPE_CHECKING

from miniclip.data.doctor import Examination
from miniclip.figures.axes import BLUE, GRAY, ORANGE, SERIES, new_figure, save, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_examination(examination: Examination, path: Path) -> Path:
    """Draw how long the captions are, what was found among the images, and how large classes are."""
    classes = {name: counts["classes"] for name, counts in examination.splits.items() if counts["classes"]}
    if classes:
        figure, axes = new_figure(1, 3, size=(14, 4))
        _class_sizes(axes[0, 2], classes)
    else:
        figure, axes = new_figure(1, 2, size=(10, 4))
    _caption_lengths(axes[0, 0], examination)
    _findings(axes[0, 1], examination)
    return save(figure, path)


def _caption_lengths(axis: "Axes", examination: Examination) -> None:
    """Bars of captions over their tokens; orange where they are cut off."""
    lengths = examination.token_lengths
    colors = [ORANGE if length > examination.context_length else BLUE for length in lengths]
    axis.bar(list(lengths), list(lengths.values()), width=1.0, color=colors)
    axis.axvline(examination.context_length + 0.5, color=GRAY, lw=0.8)

    fraction = examination.num_truncated / sum(lengths.values())
    tidy(axis, f"tokens per caption; {fraction:.1%} are cut off", xlabel="tokens")
    axis.set_ylabel("captions", fontsize=9)


def _findings(axis: "Axes", examination: Examination) -> None:
    """Bars of what was found; orange for what must be fixed."""
    counts = {
        "cannot be read": len(examination.broken),
        "same pixels": len(examination.exact_duplicates),
        "look the same": len(examination.near_duplicates),
        "on both sides": len(examination.leaks),
    }
    bars = axis.barh(list(counts), list(counts.values()), color=[ORANGE, BLUE, BLUE, ORANGE])
    axis.bar_label(bars, fontsize=9, padding=3)
    axis.invert_yaxis()
    axis.set_xlim(0, max(1, *counts.values()) * 1.15)
    tidy(axis, "images, groups or pairs", xlabel="count")


def _class_sizes(axis: "Axes", classes: dict[str, dict[str, int]]) -> None:
    """Images of each class, the largest first, a line per split."""
    for place, (name, counts) in enumerate(classes.items()):
        color = SERIES[place % len(SERIES)]
        numbers = range(1, len(counts) + 1)
        axis.step(numbers, list(counts.values()), where="mid", color=color, label=name)
    axis.set_yscale("log")
    tidy(axis, "images per class", xlabel="classes, largest first")
