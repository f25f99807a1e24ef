"""Recalls as a person reads them: the one home of directions, names and formats."""

from collections.abc import Mapping
from typing import Any

RECALL_AT = (1, 5, 10)

DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}
"""Short and long name of each direction."""


def recall_keys() -> list[str]:
    """The six recalls whose sum is rsum: i2t_r1, i2t_r5, ..., t2i_r10."""
    return [f"{direction}_r{k}" for direction in DIRECTIONS for k in RECALL_AT]


def recall_titles() -> dict[str, str]:
    """A short title for each of the six: {"i2t_r1": "i2t R@1"}."""
    return {f"{direction}_r{k}": f"{direction} R@{k}" for direction in DIRECTIONS for k in RECALL_AT}


def joined_recalls(metrics: Mapping[str, Any], direction: str, *, prefix: str = "") -> str:
    """R@1/5/10 of a direction: "12.0/34.5/56.0".

    Args:
        prefix: stands before the names of metrics, "val/" say.
    """
    return "/".join(f"{metrics[f'{prefix}{direction}_r{k}']:.1f}" for k in RECALL_AT)


def recall_line(metrics: Mapping[str, Any], *, prefix: str = "", between: str = "  ") -> str:
    """R@1/5/10 of both directions and rsum in one line."""
    cells = [
        f"{title} {joined_recalls(metrics, direction, prefix=prefix)}"
        for direction, title in DIRECTIONS.items()
    ]
    return between.join([*cells, f"rsum {metrics[f'{prefix}rsum']:.1f}"])


def recall_table(
    metrics: Mapping[str, Any],
    *,
    prefix: str = "",
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> list[str]:
    """A table with a row per direction: recalls and median rank.

    Args:
        prefix: stands before the names of metrics, "val/" say.
        intervals: low and high end of each recall, put in brackets behind it.
    """
    width = 13 if intervals is None else 24
    rows = [["", *(f"R@{k}" for k in RECALL_AT), "median rank"]]
    for direction, title in DIRECTIONS.items():
        cells = []
        for k in RECALL_AT:
            cell = f"{metrics[f'{prefix}{direction}_r{k}']:.1f}"
            if intervals is not None:
                low, high = intervals[f"{direction}_r{k}"]
                cell += f" ({low:.1f} to {high:.1f})"
            cells.append(cell)
        rows.append([title, *cells, f"{metrics[f'{prefix}{direction}_median_rank']:g}"])

    return [
        f"{title:15}" + "".join(f"{cell:>{width}}" for cell in cells) + f"{median:>13}"
        for title, *cells, median in rows
    ]
