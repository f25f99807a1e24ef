"""The figure of cosines."""

from pathlib import Path
from typing import Any

from miniclip.figures import draw_cosines
from tests.figures.conftest import is_image, texts_of


def test_right_and_wrong_pairs_are_fractions_each(drawn: list[Any], tmp_path: Path) -> None:
    counts = {"positive": [0, 0, 1, 3], "negative": [90, 6, 0, 0]}
    assert is_image(draw_cosines(counts, tmp_path / "health.png", protocol="val"))
    positive, _, negative, _ = (patch.get_data().values for patch in drawn[0].axes[0].patches)
    assert list(positive) == [0, 0, 0.25, 0.75] and negative.sum() == 1
    assert "an image and its caption" in texts_of(drawn[0])
