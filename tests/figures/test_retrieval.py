"""Figures of the joint space say what is right."""

from pathlib import Path
from typing import Any

from miniclip.data import Split
from miniclip.figures import draw_retrieval, draw_similarity, draw_space
from miniclip.metrics import Features
from tests.figures.conftest import is_image, texts_of


def test_hits_and_misses_are_marked(
    features: Features, split: Split, drawn: list[Any], tmp_path: Path
) -> None:
    path = draw_retrieval(features, split, tmp_path / "retrieval.png", protocol="val: 12 images")
    words = texts_of(drawn[0])
    assert is_image(path) and "val: 12 images" in words
    assert words.count("hit") == 3 and words.count("miss") == 3 * 4  # the nearest of five is right
    assert words.count("✓") == 3 * 2 and words.count("✗") == 3 * 3  # of five captions two are right


def test_captions_with_signs_of_formulas_are_shown_as_they_are(
    features: Features, split: Split, drawn: list[Any], tmp_path: Path
) -> None:
    assert is_image(draw_similarity(features, split, tmp_path / "similarity.png", protocol="val"))
    words = texts_of(drawn[0])
    assert "image $0$ of_many" in words and words.count("1.00") >= 10  # the diagonal


def test_the_map_names_how_much_it_shows(features: Features, drawn: list[Any], tmp_path: Path) -> None:
    assert is_image(draw_space(features, tmp_path / "space.png", protocol="val"))
    words = texts_of(drawn[0])
    assert "% of the variance" in words and "captions" in words
