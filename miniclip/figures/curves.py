"""Figure of a training run: loss, recalls, temperature and learning rate."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miniclip.figures.axes import BLUE, GRAY, GREEN, ORANGE, new_figure, save, tidy
from miniclip.metrics import DIRECTIONS, RECALL_AT

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_curves(records: Sequence[dict[str, Any]], path: Path) -> Path:
    """Draw loss, recalls, temperature and learning rate against the step.

    Args:
        records: the run's metrics.jsonl; records of steps may be missing.
        path: of the image file.
    """
    figure, axes = new_figure(2, 2, size=(10, 6.5))
    loss, recall, scale, rate = axes.flat

    _line(loss, records, "train/loss", "training", GRAY, width=0.8)
    _line(loss, records, "val/loss", "validation", BLUE, marker="o")
    tidy(loss, "loss")

    _recalls(recall, records)

    _line(scale, records, "train/logit_scale", None, BLUE)
    tidy(scale, "logit_scale (1 / temperature)")
    _line(rate, records, "train/lr", None, BLUE)
    tidy(rate, "learning rate")
    return save(figure, path)


def _recalls(axis: "Axes", records: Sequence[dict[str, Any]]) -> None:
    """A line for each recall, dashed from text to image."""
    for k, color in zip(RECALL_AT, (ORANGE, GREEN, BLUE), strict=True):
        for (direction, title), style in zip(DIRECTIONS.items(), ("-", "--"), strict=True):
            key = f"val/{direction}_r{k}"
            _line(axis, records, key, f"R@{k} {title}", color, marker="o", style=style)

    axis.set_ylim(0, 122)  # room for the legend above 100
    axis.set_yticks(range(0, 101, 20))
    tidy(axis, "recall, %", columns=3, place="upper center")


def _line(
    axis: "Axes",
    records: Sequence[dict[str, Any]],
    key: str,
    label: str | None,
    color: str,
    *,
    style: str = "-",
    width: float = 1.5,
    marker: str | None = None,
) -> None:
    """A line of one key of the records, without those that lack it."""
    # records of steps and of validations stand in one file
    points = [(record["step"], record[key]) for record in records if record.get(key) is not None]
    if points:
        steps, values = zip(*points, strict=True)
        axis.plot(steps, values, style, color=color, label=label, lw=width, marker=marker, markersize=3)
