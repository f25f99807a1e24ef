"""Figure of the joint space's health: cosines of right and wrong pairs."""

from pathlib import Path

import numpy as np

from miniclip.figures.axes import BLUE, ORANGE, new_figure, save, tidy

SERIES_OF_PAIRS = {
    "positive": ("an image and its caption", BLUE),
    "negative": ("an image and another's caption", ORANGE),
}


def draw_cosines(counts: dict[str, list[int]], path: Path, *, protocol: str) -> Path:
    """Draw how often right and wrong pairs have which cosine, each as a fraction.

    Args:
        counts: see `miniclip.metrics.cosine_counts`.
    """
    figure, axes = new_figure(1, 1, size=(8, 4))
    axis = axes[0, 0]
    for name, (title, color) in SERIES_OF_PAIRS.items():
        bins = np.array(counts[name])
        edges = np.linspace(-1, 1, len(bins) + 1)
        fractions = bins / max(1, bins.sum())
        axis.stairs(fractions, edges, color=color, fill=True, alpha=0.45, label=title)
        axis.stairs(fractions, edges, color=color)

    tidy(axis, f"Cosines ({protocol})", xlabel="cosine")
    axis.set_ylabel("fraction of pairs", fontsize=9)
    return save(figure, path)
