"""The figure of the loss around the weights."""

from pathlib import Path
from typing import Any

from miniclip.figures import draw_landscape
from miniclip.metrics import Landscape
from tests.figures.conftest import is_image, texts_of


def test_both_lines_are_drawn_over_their_own_distances(drawn: list[Any], tmp_path: Path) -> None:
    landscape = Landscape([-0.1, 0, 0.1], [2.0, 1.0, 3.0], [-0.5, 0, 0.5], [4.0, 1.0, 5.0])
    assert is_image(draw_landscape(landscape, tmp_path / "sharpness.png", protocol="train"))
    gradient, random = drawn[0].axes
    assert list(gradient.lines[0].get_xdata()) == landscape.distances
    assert list(random.lines[0].get_ydata()) == landscape.random
    assert "training loss" in texts_of(drawn[0])
