"""Figure of what attentions cost over the length of a caption."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from miniclip.figures.axes import SERIES, new_figure, save, tidy
from miniclip.metrics import Cost

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "osv^D*P"

MEASURES = {
    "training_ms": "ms per caption, forward and backward",
    "peak_mb": "peak memory per caption, MB",
    "gflops": "10^9 operations per caption, forward",
}


def draw_costs(costs: Sequence[Cost], path: Path, *, device: str) -> Path:
    """Draw time, memory and operations of each attention."""
    figure, axes = new_figure(1, len(MEASURES), size=(14, 4.5))
    for axis, (measure, title) in zip(axes[0], MEASURES.items(), strict=True):
        _lines(axis, costs, measure)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        tidy(axis, title, xlabel="tokens per caption")
    figure.suptitle(f"One attention layer, {device}", fontsize=10)
    return save(figure, path)


def _lines(axis: "Axes", costs: Sequence[Cost], measure: str) -> None:
    """A line per attention."""
    names = list(dict.fromkeys(cost.attention for cost in costs))
    for place, name in enumerate(names):
        costs_of_one = [cost for cost in costs if cost.attention == name]
        axis.plot(
            [cost.length for cost in costs_of_one],
            [getattr(cost, measure) for cost in costs_of_one],
            label=name,
            color=SERIES[place % len(SERIES)],
            marker=MARKERS[place % len(MARKERS)],
            markersize=4,
        )
