"""Figure of a classification: which classes are taken for which."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from miniclip.figures.axes import new_figure, save

NUM_CLASSES = 30


def draw_confusion(confusion: Tensor, names: Sequence[str], path: Path, *, protocol: str) -> Path:
    """Draw the most frequent classes; a row is a right class, a column an answer.

    Args:
        confusion: (C, C), images of the row's class that were given the column's.
        names: of the classes.
    """
    most_frequent = confusion.sum(dim=1).argsort(descending=True, stable=True)[:NUM_CLASSES].tolist()
    counts = confusion[most_frequent].double()
    fractions = (counts / counts.sum(dim=1, keepdim=True).clamp(min=1))[:, most_frequent].numpy()

    figure, axes = new_figure(1, 1, size=(9.5, 8))
    axis = axes[0, 0]
    shown = axis.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    labels = [textwrap.shorten(names[row], 24, placeholder="…") for row in most_frequent]
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.set_xticks(range(len(labels)), labels, fontsize=8, rotation=90)
    axis.set_xlabel("class that the model gave")
    axis.set_ylabel("right class")

    shown_of = f", the {len(labels)} most frequent of {len(names)}" if len(labels) < len(names) else ""
    axis.set_title(f"Classes{shown_of}\n({protocol})", loc="left", fontsize=10)
    figure.colorbar(shown, label="fraction of the right class's images", shrink=0.8)
    return save(figure, path)
