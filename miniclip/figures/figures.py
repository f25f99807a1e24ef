"""The pictures every run ends with: curves and a retrieval gallery."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from miniclip.data.doctor import Examination
from miniclip.data.split import Split
from miniclip.files import replacing
from miniclip.metrics import Cost, Features, Landscape, some_pairs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by the colour-blind and in grey print
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8C8C8C"
SERIES = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
NUM_NEAREST = 5
NUM_EXAMPLES = 3
NUM_IN_MATRIX = 10
NUM_POINTS = 300
NUM_CLASSES = 30


def draw_curves(records: Sequence[dict[str, Any]], path: Path) -> Path:
    """Draw loss, recalls, temperature and learning rate against the step; write a PNG.

    Args:
        records: the run's metrics.jsonl; records of steps may be missing.
    """
    figure, axes = new_figure(2, 2, size=(10, 6.5))
    loss, recall, scale, rate = axes.flat
    _line(loss, records, "train/loss", "training", GREY, width=0.8)
    _line(loss, records, "val/loss", "validation", BLUE, marker="o")
    tidy(loss, "loss")
    for k, colour in ((1, ORANGE), (5, GREEN), (10, BLUE)):
        for direction, title, style in (("i2t", "image to text", "-"), ("t2i", "text to image", "--")):
            key = f"val/{direction}_r{k}"
            _line(recall, records, key, f"R@{k} {title}", colour, marker="o", style=style)
    recall.set_ylim(0, 122)  # room for the legend above 100
    recall.set_yticks(range(0, 101, 20))
    tidy(recall, "recall, %", columns=3, place="upper center")
    _line(scale, records, "train/logit_scale", None, BLUE)
    tidy(scale, "logit_scale (1 / temperature)")
    _line(rate, records, "train/lr", None, BLUE)
    tidy(rate, "learning rate")
    return save(figure, path)


def draw_retrieval(features: Features, split: Split, path: Path, *, protocol: str) -> Path:
    """Draw captions with their five nearest images and images with their five nearest captions.

    Hits are marked by a green frame or tick, misses by an orange frame or cross.
    """
    captions = [caption for own in split.captions for caption in own]
    owners = features.image_of_caption.cpu()
    num_examples = min(NUM_EXAMPLES, len(split))
    examples = np.linspace(0, len(split) - 1, num_examples).astype(int)
    figure, axes = new_figure(2 * num_examples, 1 + NUM_NEAREST, size=(11, 2 * num_examples * 1.5))
    for axis in axes.flat:
        axis.axis("off")
    for row, image in enumerate(examples):
        caption = int(torch.nonzero(owners == image)[0])
        _text(axes[row, 0], f"“{captions[caption]}”")
        for column, nearest in enumerate(_nearest(features.texts[caption], features.images)):
            _picture(axes[row, 1 + column], split.images[nearest], hit=nearest == image)
    for row, image in enumerate(examples, start=num_examples):
        _picture(axes[row, 0], split.images[int(image)])
        for column, nearest in enumerate(_nearest(features.images[int(image)], features.texts)):
            hit = int(owners[nearest]) == image
            _text(axes[row, 1 + column], captions[nearest], hit=hit)
    figure.suptitle(f"A caption's nearest images, an image's nearest captions ({protocol})")
    return save(figure, path)


def draw_similarity(features: Features, split: Split, path: Path, *, protocol: str) -> Path:
    """Draw the cosines of a few captions (rows) with each other's images; the diagonal is right."""
    rows = np.linspace(0, len(split) - 1, min(NUM_IN_MATRIX, len(split))).round().astype(int)
    chosen = torch.from_numpy(rows).to(features.images.device)
    cosines = (features.first_captions[chosen] @ features.images[chosen].T).cpu().numpy()
    figure, axes = new_figure(1, 1, size=(11, 7.5))
    axis = axes[0, 0]
    shown = axis.imshow(cosines, cmap="viridis")
    for row, column in np.ndindex(*cosines.shape):
        dark = cosines[row, column] < (cosines.min() + cosines.max()) / 2
        text = f"{cosines[row, column]:.2f}"
        axis.text(column, row, text, ha="center", va="center", fontsize=8, color="w" if dark else "k")
    captions = [textwrap.shorten(split.captions[int(row)][0], 44, placeholder="…") for row in rows]
    axis.set_yticks(range(len(rows)), captions, fontsize=8, parse_math=False)
    axis.set_xticks([])
    for column, row in enumerate(rows):
        picture = Image.fromarray(split.images[int(row)].permute(1, 2, 0).numpy())
        place = axis.inset_axes((column - 0.45, -1.5, 0.9, 0.9), transform=axis.transData)
        place.imshow(np.asarray(ImageOps.contain(picture, (96, 96))))
        place.axis("off")
    figure.colorbar(shown, label="cosine", shrink=0.8)
    axis.set_title(f"Images and captions ({protocol})", pad=60, fontsize=10)
    return save(figure, path)


def draw_space(features: Features, path: Path, *, protocol: str) -> Path:
    """Draw both modalities on their two principal axes, each image tied to its caption."""
    images, texts = (part.double().cpu() for part in some_pairs(features, NUM_POINTS))
    both = torch.cat([images, texts])
    centred = both - both.mean(dim=0)
    _, lengths, axes_of_space = torch.linalg.svd(centred, full_matrices=False)
    points = (centred @ axes_of_space[:2].T).numpy()
    shares = (lengths**2 / (lengths**2).sum())[:2].tolist()
    figure, axes = new_figure(1, 1, size=(8.5, 6.5))
    axis = axes[0, 0]
    for number in range(len(images)):
        axis.plot(*points[[number, number + len(images)]].T, color=GREY, lw=0.3, alpha=0.4, zorder=0)
    axis.scatter(*points[: len(images)].T, s=14, color=BLUE, marker="o", label="images")
    axis.scatter(*points[len(images) :].T, s=16, color=ORANGE, marker="^", label="captions")
    tidy(axis, f"The joint space on its two principal axes ({protocol})")
    axis.set_xlabel(f"first axis, {shares[0]:.0%} of the variance", fontsize=9)
    axis.set_ylabel(f"second axis, {shares[1]:.0%}", fontsize=9)
    return save(figure, path)


def draw_confusion(confusion: Tensor, names: Sequence[str], path: Path, *, protocol: str) -> Path:
    """Draw which classes are taken for which, the most frequent ones; a row is a right class."""
    largest = confusion.sum(dim=1).argsort(descending=True, stable=True)[:NUM_CLASSES].tolist()
    counts = confusion[largest].double()
    shares = (counts / counts.sum(dim=1, keepdim=True).clamp(min=1))[:, largest].numpy()
    figure, axes = new_figure(1, 1, size=(9.5, 8))
    axis = axes[0, 0]
    shown = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [textwrap.shorten(names[row], 24, placeholder="…") for row in largest]
    axis.set_yticks(range(len(labels)), labels, fontsize=8, parse_math=False)
    axis.set_xticks(range(len(labels)), labels, fontsize=8, rotation=90, parse_math=False)
    axis.set_xlabel("taken for")
    axis.set_ylabel("is")
    of_all = "" if len(largest) == len(names) else f", the {len(largest)} most frequent of {len(names)}"
    axis.set_title(f"Classes{of_all}\n({protocol})", loc="left", fontsize=10)
    figure.colorbar(shown, label="share of the class", shrink=0.8)
    return save(figure, path)


def draw_cosines(counts: dict[str, list[int]], path: Path, *, protocol: str) -> Path:
    """Draw how often right and wrong pairs have which cosine, each as a share."""
    figure, axes = new_figure(1, 1, size=(8, 4))
    axis = axes[0, 0]
    for (name, own), colour in zip(counts.items(), (BLUE, ORANGE), strict=True):
        edges = np.linspace(-1, 1, len(own) + 1)
        share = np.array(own) / max(1, sum(own))
        title = "an image and its caption" if name == "positive" else "an image and another's caption"
        axis.stairs(share, edges, color=colour, fill=True, alpha=0.45, label=title)
        axis.stairs(share, edges, color=colour)
    tidy(axis, f"Cosines ({protocol})")
    axis.set_xlabel("cosine", fontsize=9)
    axis.set_ylabel("share of pairs", fontsize=9)
    return save(figure, path)


def draw_examination(examination: Examination, path: Path) -> Path:
    """Draw how long the captions are, what was found among the images, and how large classes are; a PNG."""
    classes = {name: own["classes"] for name, own in examination.splits.items() if own["classes"]}
    figure, axes = new_figure(1, 3 if classes else 2, size=(14 if classes else 10, 4))
    tokens, findings, *sizes = axes[0]
    lengths = examination.token_lengths
    colours = [ORANGE if length > examination.context_length else BLUE for length in lengths]
    tokens.bar(list(lengths), list(lengths.values()), width=1.0, color=colours)
    tokens.axvline(examination.context_length + 0.5, color=GREY, lw=0.8)
    share = examination.num_truncated / sum(lengths.values())
    tidy(tokens, f"tokens a caption; {share:.1%} are cut off")
    tokens.set_xlabel("tokens", fontsize=9)
    counts = {
        "cannot be read": len(examination.broken),
        "same pixels": len(examination.exact_duplicates),
        "look the same": len(examination.near_duplicates),
        "on both sides": len(examination.leaks),
    }
    bars = findings.barh(list(counts), list(counts.values()), color=[ORANGE, BLUE, BLUE, ORANGE])
    findings.bar_label(bars, fontsize=9, padding=3)
    findings.invert_yaxis()
    findings.set_xlim(0, max(1, *counts.values()) * 1.15)
    tidy(findings, "images, groups or pairs")
    findings.set_xlabel("count", fontsize=9)
    for axis in sizes:
        for (name, counts), colour in zip(classes.items(), (BLUE, ORANGE), strict=False):
            axis.step(
                range(1, len(counts) + 1), list(counts.values()), where="mid", color=colour, label=name
            )
        axis.set_yscale("log")
        tidy(axis, "images a class")
        axis.set_xlabel("classes, largest first", fontsize=9)
    return save(figure, path)


def draw_landscape(landscape: Landscape, path: Path, *, protocol: str) -> Path:
    """Draw the loss on two lines through the weights; write a PNG."""
    figure, axes = new_figure(1, 2, size=(10, 4))
    for axis, steps, losses, title, unit in (
        (axes[0, 0], landscape.distances, landscape.gradient, "along the gradient", "distance"),
        (
            axes[0, 1],
            landscape.shares,
            landscape.random,
            "a random direction, filter by filter",
            "distance over the length of the weights",
        ),
    ):
        axis.plot(steps, losses, color=BLUE, marker="o", markersize=3)
        axis.axvline(0, color=GREY, lw=0.8)
        tidy(axis, title)
        axis.set_xlabel(unit, fontsize=9)
    figure.suptitle(f"Loss around the weights ({protocol})", fontsize=10)
    return save(figure, path)


def draw_costs(costs: Sequence[Cost], path: Path, *, device: str) -> Path:
    """Draw time, memory and operations of each attention over the length of a caption; write a PNG."""
    figure, axes = new_figure(1, 3, size=(14, 4.5))
    names = list(dict.fromkeys(cost.attention for cost in costs))
    for axis, field, title in zip(
        axes[0],
        ("training_ms", "peak_mb", "gflops"),
        ("ms a caption, forward and backward", "peak memory a caption, MB", "10^9 operations, forward"),
        strict=True,
    ):
        for place, name in enumerate(names):
            own = [cost for cost in costs if cost.attention == name]
            axis.plot(
                [cost.length for cost in own],
                [getattr(cost, field) for cost in own],
                label=name,
                color=SERIES[place % len(SERIES)],
                marker="osv^D*P"[place % 7],
                markersize=4,
            )
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        tidy(axis, title)
        axis.set_xlabel("tokens a caption", fontsize=9)
    figure.suptitle(f"One attention layer, {device}", fontsize=10)
    return save(figure, path)


def new_figure(rows: int, columns: int, *, size: tuple[float, float]) -> tuple["Figure", Any]:
    """A figure of so many inches, and its axes (rows, columns)."""
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure, as its path's ending says."""
    with replacing(path, "wb") as file:
        figure.savefig(file, format=path.suffix.removeprefix("."), dpi=110)
    return path


def _line(
    axis: "Axes",
    records: Sequence[dict[str, Any]],
    key: str,
    label: str | None,
    colour: str,
    *,
    style: str = "-",
    width: float = 1.5,
    marker: str | None = None,
) -> None:
    points = [(r["step"], r[key]) for r in records if r.get(key) is not None]
    if points:
        steps, values = zip(*points, strict=True)
        axis.plot(steps, values, style, color=colour, label=label, lw=width, marker=marker, markersize=3)


def tidy(
    axis: "Axes",
    title: str,
    *,
    columns: int = 1,
    place: Literal["best", "upper center"] = "best",
    legend: bool = True,
) -> None:
    """Give an axis its title, a light grid, and a legend if anything has a name."""
    axis.set_title(title, loc="left", fontsize=10)
    axis.set_xlabel("step", fontsize=9)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    if legend and any(axis.get_legend_handles_labels()):
        axis.legend(fontsize=7, frameon=False, ncols=columns, loc=place)


def _nearest(feature: Tensor, others: Tensor) -> list[int]:
    """Rows of the features (N, D) with the highest cosine to one (D,)."""
    return (others @ feature).topk(min(NUM_NEAREST, len(others))).indices.tolist()


def _picture(axis: "Axes", pixels: Tensor, *, hit: bool | None = None) -> None:
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    axis.imshow(np.asarray(ImageOps.contain(image, (160, 160))))
    if hit is None:
        return
    axis.axis("on")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(color=GREEN if hit else ORANGE, linewidth=3 if hit else 1.5)
    axis.set_xlabel("hit" if hit else "miss", color=GREEN if hit else ORANGE, fontsize=8)


def _text(axis: "Axes", text: str, *, hit: bool | None = None) -> None:
    colour = "black" if hit is None else GREEN if hit else ORANGE
    mark = "" if hit is None else "✓ " if hit else "✗ "
    wrapped = "\n".join(textwrap.wrap(mark + text, width=20, max_lines=6))
    axis.text(0.5, 0.5, wrapped, ha="center", va="center", fontsize=9, color=colour, parse_math=False)
