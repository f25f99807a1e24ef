"""The figure of a classification shows the most frequent classes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from miniclip.figures import draw_confusion
from miniclip.figures.confusion import NUM_CLASSES
from tests.figures.conftest import is_image, texts_of


def test_rows_are_fractions_of_the_right_class(drawn: list[Any], tmp_path: Path) -> None:
    confusion = torch.tensor([[1, 3], [0, 8]])
    assert is_image(draw_confusion(confusion, ["cat", "dog"], tmp_path / "c.png", protocol="val"))
    shown = drawn[0].axes[0].images[0].get_array()
    assert np.array_equal(shown, [[1.0, 0.0], [0.75, 0.25]])  # dogs first, there are more
    assert "right class" in texts_of(drawn[0])


def test_of_many_classes_the_most_frequent_are_shown(drawn: list[Any], tmp_path: Path) -> None:
    confusion = torch.diag(torch.arange(40))
    draw_confusion(confusion, [f"class {row}" for row in range(40)], tmp_path / "c.png", protocol="val")
    words = texts_of(drawn[0])
    assert f"the {NUM_CLASSES} most frequent of 40" in words
    assert "class 39" in words and "class 9\n" not in words
