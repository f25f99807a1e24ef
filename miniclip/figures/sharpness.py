"""Figure of the loss around the weights."""

from pathlib import Path

from miniclip.figures.axes import BLUE, GRAY, new_figure, save, tidy
from miniclip.metrics import Landscape


def draw_landscape(landscape: Landscape, path: Path, *, protocol: str) -> Path:
    """Draw the loss on two lines through the weights."""
    lines = (
        (landscape.distances, landscape.gradient, "along the gradient", "distance from the weights"),
        (
            landscape.fractions,
            landscape.random,
            "along a random direction, scaled filter by filter",
            "distance as a fraction of the weights' length",
        ),
    )
    figure, axes = new_figure(1, 2, size=(10, 4))
    for axis, (steps, losses, title, xlabel) in zip(axes[0], lines, strict=True):
        axis.plot(steps, losses, color=BLUE, marker="o", markersize=3)
        axis.axvline(0, color=GRAY, lw=0.8)
        tidy(axis, title, xlabel=xlabel)
        axis.set_ylabel("training loss", fontsize=9)
    figure.suptitle(f"Loss around the weights ({protocol})", fontsize=10)
    return save(figure, path)
