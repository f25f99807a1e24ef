"""Texts of figures: no formulas, fonts that have their letters, and one line where none has."""

import warnings
from pathlib import Path

import pytest

from miniclip.figures import new_figure, save, texts, tidy

DOLLARS = "$a^$"
"""No formula: matplotlib would refuse it."""


def test_no_text_of_users_is_a_formula(tmp_path: Path) -> None:
    figure, axes = new_figure(1, 1, size=(4, 3))
    axis = axes[0, 0]
    axis.plot([1, 2], label=DOLLARS)
    axis.set_yticks([1, 2], [DOLLARS, DOLLARS])
    axis.text(0, 1, DOLLARS)
    tidy(axis, DOLLARS, xlabel=DOLLARS)
    figure.suptitle(DOLLARS)
    assert save(figure, tmp_path / "a.png").stat().st_size > 1000


def test_numbers_of_logarithmic_axes_are_formulas(tmp_path: Path) -> None:
    figure, axes = new_figure(1, 1, size=(4, 3))
    axes[0, 0].plot([1, 1000])
    axes[0, 0].set_yscale("log")
    save(figure, tmp_path / "a.png")
    labels = axes[0, 0].get_yticklabels()
    assert any("mathdefault" in label.get_text() for label in labels)
    assert all(label.get_parse_math() for label in labels)
    assert not axes[0, 0].title.get_parse_math()


def test_an_installed_font_that_has_the_letters_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """matplotlib brings STIXGeneral, which has a letter that its usual font lacks."""
    letter = "\N{LATIN SMALL LETTER D WITH PALATAL HOOK}"
    assert letter not in texts._letters_of("DejaVu Sans")
    figure, axes = new_figure(1, 1, size=(4, 3))
    tidy(axes[0, 0], f"a {letter}")
    save(figure, tmp_path / "a.png")
    usual, *others = axes[0, 0].title.get_fontfamily()
    assert usual == "sans-serif" and any(letter in texts._letters_of(family) for family in others)
    assert not caplog.text


def test_letters_that_no_font_has_are_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(texts, "_families", lambda: ("DejaVu Sans",))
    figure, axes = new_figure(1, 1, size=(4, 3))
    tidy(axes[0, 0], "猫 and 鳥 🐈")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        save(figure, tmp_path / "a.png")
    assert not told
    (line,) = caplog.messages
    assert line.startswith("a.png shows boxes in place of letters (CJK, emoji and signs) such as 猫鳥🐈")
