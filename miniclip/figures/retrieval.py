"""Figures of the joint space: examples of retrieval, a matrix of similarities, a map."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from miniclip.data.dataset import Split
from miniclip.figures.axes import BLUE, GRAY, GREEN, ORANGE, new_figure, save, tidy
from miniclip.metrics import Features, some_pairs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_NEAREST = 5
NUM_EXAMPLES = 3
NUM_IN_MATRIX = 10
NUM_POINTS = 300

# of the figure of examples, inches
CELL_WIDTH, CELL_HEIGHT = 11 / 6, 1.5
IMAGE_SIDE = 1.25
"""The longer one."""


def draw_retrieval(features: Features, split: Split, path: Path, *, protocol: str) -> Path:
    """Draw captions with their five nearest images and images with their five nearest captions.

    Hits are marked by a green frame or tick, misses by an orange frame or cross.
    """
    num_examples = min(NUM_EXAMPLES, len(split))
    examples = [int(row) for row in np.linspace(0, len(split) - 1, num_examples)]
    rows, columns = 2 * num_examples, 1 + NUM_NEAREST
    figure, axes = new_figure(1, 1, size=(columns * CELL_WIDTH, rows * CELL_HEIGHT))
    # one axis for all cells: one each takes three times as long to draw
    axis = axes[0, 0]
    axis.axis("off")
    axis.set_xlim(0, columns)
    axis.set_ylim(rows, 0)

    _nearest_images(axis, features, split, examples)
    _nearest_captions(axis, features, split, examples)
    figure.suptitle(f"A caption's nearest images, an image's nearest captions ({protocol})")
    return save(figure, path)


def _nearest_images(axis: "Axes", features: Features, split: Split, examples: list[int]) -> None:
    """A row per example: its first caption, then the images that lie nearest."""
    first_captions = features.first_captions
    for row, image in enumerate(examples):
        _text(axis, (row, 0), f"“{split.captions[image][0]}”")
        for column, nearest in enumerate(_nearest(first_captions[image], features.images), start=1):
            _image(axis, (row, column), split.images[nearest], hit=nearest == image)


def _nearest_captions(axis: "Axes", features: Features, split: Split, examples: list[int]) -> None:
    """A row per example, below those of `_nearest_images`: the image, then its nearest captions."""
    captions = [caption for captions_of_image in split.captions for caption in captions_of_image]
    owners = features.image_of_caption.cpu()
    for row, image in enumerate(examples, start=len(examples)):
        _image(axis, (row, 0), split.images[image])
        for column, nearest in enumerate(_nearest(features.images[image], features.texts), start=1):
            _text(axis, (row, column), captions[nearest], hit=int(owners[nearest]) == image)


def draw_similarity(features: Features, split: Split, path: Path, *, protocol: str) -> Path:
    """Draw the cosines of a few captions (rows) with each other's images; the diagonal is right."""
    rows = np.linspace(0, len(split) - 1, min(NUM_IN_MATRIX, len(split))).round().astype(int)
    chosen = torch.from_numpy(rows).to(features.images.device)
    cosines = (features.first_captions[chosen] @ features.images[chosen].T).cpu().numpy()  # (rows, rows)

    figure, axes = new_figure(1, 1, size=(11, 7.5))
    axis = axes[0, 0]
    shown = axis.imshow(cosines, cmap="viridis")
    middle = (cosines.min() + cosines.max()) / 2
    for row, column in np.ndindex(*cosines.shape):
        color = "w" if cosines[row, column] < middle else "k"
        number = f"{cosines[row, column]:.2f}"
        axis.text(column, row, number, ha="center", va="center", fontsize=8, color=color)

    captions = [textwrap.shorten(split.captions[int(row)][0], 44, placeholder="…") for row in rows]
    axis.set_yticks(range(len(rows)), captions, fontsize=8)
    axis.set_xticks([])
    for column, row in enumerate(rows):
        _image_above(axis, column, split.images[int(row)])

    figure.colorbar(shown, label="cosine", shrink=0.8)
    axis.set_title(f"Images and captions ({protocol})", pad=60, fontsize=10)
    return save(figure, path)


def draw_space(features: Features, path: Path, *, protocol: str) -> Path:
    """Draw both modalities on their two principal axes, each image tied to its caption."""
    images, texts = (part.double().cpu() for part in some_pairs(features, NUM_POINTS))  # (P, D) each
    both = torch.cat([images, texts])
    centered = both - both.mean(dim=0)
    _, lengths, directions = torch.linalg.svd(centered, full_matrices=False)
    points = (centered @ directions[:2].T).numpy()  # (2P, 2)
    fractions = (lengths**2 / (lengths**2).sum())[:2].tolist()

    figure, axes = new_figure(1, 1, size=(8.5, 6.5))
    axis = axes[0, 0]
    for number in range(len(images)):
        pair = points[[number, number + len(images)]]
        axis.plot(*pair.T, color=GRAY, lw=0.3, alpha=0.4, zorder=0)
    axis.scatter(*points[: len(images)].T, s=14, color=BLUE, marker="o", label="images")
    axis.scatter(*points[len(images) :].T, s=16, color=ORANGE, marker="^", label="captions")

    xlabel = f"first axis, {fractions[0]:.0%} of the variance"
    tidy(axis, f"The joint space on its two principal axes ({protocol})", xlabel=xlabel)
    axis.set_ylabel(f"second axis, {fractions[1]:.0%}", fontsize=9)
    return save(figure, path)


def _nearest(feature: Tensor, others: Tensor) -> list[int]:
    """Rows of the features (N, D) with the highest cosine to one (D,)."""
    return (others @ feature).topk(min(NUM_NEAREST, len(others))).indices.tolist()


def _image(axis: "Axes", cell: tuple[int, int], pixels: Tensor, *, hit: bool | None = None) -> None:
    """An image (3, H, W) in a cell (row, column), framed as a hit or a miss."""
    from matplotlib.patches import Rectangle

    image = ImageOps.contain(Image.fromarray(pixels.permute(1, 2, 0).numpy()), (160, 160))
    inches = IMAGE_SIDE / max(image.size)  # per pixel
    width, height = image.width * inches / CELL_WIDTH, image.height * inches / CELL_HEIGHT
    left, top = cell[1] + (1 - width) / 2, cell[0] + (0.9 - height) / 2
    axis.imshow(np.asarray(image), extent=(left, left + width, top + height, top), aspect="auto")
    if hit is None:
        return

    color = GREEN if hit else ORANGE
    frame = Rectangle((left, top), width, height, fill=False, color=color, linewidth=3 if hit else 1.5)
    axis.add_patch(frame)
    word = "hit" if hit else "miss"
    axis.text(cell[1] + 0.5, top + height + 0.02, word, ha="center", va="top", color=color, fontsize=8)


def _image_above(axis: "Axes", column: int, pixels: Tensor) -> None:
    """An image (3, H, W) above a column of a matrix."""
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    place = axis.inset_axes((column - 0.45, -1.5, 0.9, 0.9), transform=axis.transData)
    place.imshow(np.asarray(ImageOps.contain(image, (96, 96))))
    place.axis("off")


def _text(axis: "Axes", cell: tuple[int, int], text: str, *, hit: bool | None = None) -> None:
    """A caption in a cell (row, column), marked as a hit or a miss."""
    color = "black" if hit is None else GREEN if hit else ORANGE
    mark = "" if hit is None else "✓ " if hit else "✗ "
    wrapped = "\n".join(textwrap.wrap(mark + text, width=20, max_lines=6))
    x, y = cell[1] + 0.5, cell[0] + 0.45
    axis.text(x, y, wrapped, ha="center", va="center", fontsize=9, color=color)
