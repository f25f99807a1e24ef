"""What all figures share: the palette, an empty figure, an axis with its title, a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from miniclip.figures.texts import as_typed
from miniclip.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by the color-blind and in gray print
BLUE, ORANGE, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "#8C8C8C"
SERIES = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")

COUNTED = ("step", "steps", "forward passes")
"""Horizontal axes between whose numbers there is nothing."""


def new_figure(rows: int, columns: int, *, size: tuple[float, float]) -> tuple["Figure", Any]:
    """A figure of so many inches, and its axes (rows, columns)."""
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def tidy(
    axis: "Axes",
    title: str,
    *,
    xlabel: str = "step",
    columns: int = 1,
    place: Literal["best", "upper center"] = "best",
    legend: bool = True,
) -> None:
    """Give an axis its title, a light grid, and a legend if anything has a name."""
    axis.set_title(title, loc="left", fontsize=10)
    axis.set_xlabel(xlabel, fontsize=9)
    if xlabel in COUNTED:
        axis.locator_params(axis="x", integer=True)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    if legend and any(axis.get_legend_handles_labels()):
        axis.legend(fontsize=7, frameon=False, ncols=columns, loc=place)


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure, as its path's ending says, with its texts as they were typed."""
    with as_typed(figure, path.name), replacing(path, "wb") as file:
        figure.savefig(file, format=path.suffix.removeprefix("."), dpi=110)
    return path
