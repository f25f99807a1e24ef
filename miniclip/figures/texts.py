"""Texts of a figure as they were typed: no formulas, and in fonts that have their letters."""

import functools
import logging
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

log = logging.getLogger(__name__)

LETTERS_SHOWN = 5


@contextmanager
def as_typed(figure: "Figure", name: str) -> Iterator[None]:
    """Draw a figure inside the context, with no text of it as a formula and boxes told in one line.

    Args:
        name: of the figure, for that line.
    """
    from matplotlib.text import Text

    texts = figure.findobj(Text)
    formulas = set(_powers_of_ten(figure))
    for text in texts:
        if text not in formulas:
            text.set_parse_math(False)

    lacking = _choose_fonts(texts)
    if lacking:
        log.warning("%s shows boxes in place of %s: no installed font has them.", name, _in_words(lacking))

    with warnings.catch_warnings():
        # matplotlib tells each letter, in two lines
        warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from font")
        yield


def _powers_of_ten(figure: "Figure") -> Iterator["Text"]:
    """The numbers of logarithmic axes, which matplotlib itself writes as formulas."""
    from matplotlib.text import Text
    from matplotlib.ticker import LogFormatter

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for ticks, formatter in (
                (axis.get_major_ticks(), axis.get_major_formatter()),
                (axis.get_minor_ticks(), axis.get_minor_formatter()),
            ):
                if isinstance(formatter, LogFormatter):
                    yield from (text for tick in ticks for text in tick.findobj(Text))


def _choose_fonts(texts: Sequence["Text"]) -> set[str]:
    """Give texts other fonts for letters that their own lacks. Returns the letters that none has."""
    from matplotlib import rcParams

    usual = list(rcParams["font.family"])
    letters = {letter for text in texts for letter in text.get_text() if letter.isprintable()}
    lacking = letters - set().union(*map(_letters_of, usual))

    chosen: list[str] = []
    while lacking:
        family = max(_families(), key=lambda family: len(lacking & _letters_of(family)))
        found = lacking & _letters_of(family)
        if not found:
            break
        chosen.append(family)
        lacking -= found

    if chosen:
        for text in texts:
            text.set_fontfamily([*usual, *chosen])
    return lacking


@functools.cache
def _families() -> tuple[str, ...]:
    """The installed font families, also those that matplotlib's own list lacks; without serifs first."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = {str(entry.fname) for entry in fontManager.ttflist}
    for path in set(findSystemFonts()) - known:
        with suppress(Exception):  # fonts that it cannot draw, of bitmaps say, raise various errors
            fontManager.addfont(path)

    upright = [entry for entry in fontManager.ttflist if (entry.style, entry.weight) == ("normal", 400)]
    # a font of last resort draws the boxes themselves
    families = {entry.name for entry in upright if not entry.name.startswith("Last Resort")}
    return tuple(sorted(families, key=lambda family: ("Sans" not in family, family)))


@functools.cache
def _letters_of(family: str) -> frozenset[str]:
    """What a font family can draw."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(family=[family])))
    return frozenset(map(chr, font.get_charmap()))


def _in_words(letters: set[str]) -> str:
    """Kinds of letters and the first of them: "letters (CJK, HANGUL) such as 한猫"."""
    in_order = sorted(letters)
    kinds = dict.fromkeys(map(_kind, in_order))
    examples = "".join(in_order[:LETTERS_SHOWN])
    return f"letters ({', '.join(kinds)}) such as {examples}"


def _kind(letter: str) -> str:
    """The script of a letter as Unicode calls it; "emoji and signs" of what is none."""
    if unicodedata.category(letter).startswith("S"):
        return "emoji and signs"
    return unicodedata.name(letter, "without a name").partition(" ")[0]
