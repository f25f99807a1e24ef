"""Small data to draw, and what a figure says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from miniclip.data import Split
from miniclip.figures import axes
from miniclip.metrics import Features

NUM_IMAGES = 12


class _Pixels:
    """Images of one color each, (3, 20, 30) uint8."""

    def __len__(self) -> int:
        return NUM_IMAGES

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((3, 20, 30), 20 * index, dtype=torch.uint8)


@pytest.fixture
def split() -> Split:
    """Twelve images with two captions each; dollars are no formulas."""
    captions = [[f"image ${row}$ of_many", f"another of {row}"] for row in range(NUM_IMAGES)]
    return Split("val", [str(row) for row in range(NUM_IMAGES)], _Pixels(), captions)


@pytest.fixture
def features() -> Features:
    """Images whose captions lie at the same places."""
    images = normalize(torch.from_numpy(np.random.default_rng(0).normal(size=(NUM_IMAGES, 8))).float())
    owners = torch.arange(NUM_IMAGES).repeat_interleave(2)
    return Features(images, images[owners], owners)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that a test draws, as matplotlib has them."""
    figures: list[Any] = []
    original = axes.new_figure

    def recorded(*arguments: Any, **settings: Any) -> Any:
        figure, axes_of_it = original(*arguments, **settings)
        figures.append(figure)
        return figure, axes_of_it

    for module in ("confusion", "costs", "curves", "examination", "health", "retrieval", "sharpness"):
        monkeypatch.setattr(f"miniclip.figures.{module}.new_figure", recorded)
    return figures


def texts_of(figure: Any) -> str:
    """All that is written on a figure."""
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


def is_image(path: Path) -> bool:
    return path.read_bytes()[:4] == b"\x89PNG"
