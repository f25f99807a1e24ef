"""Cells: what the captions in one are."""

from typing import Any

import numpy as np
import pytest

from miniclip.data.sources.caption_cells import captions_of_cell
from miniclip.errors import UserError


@pytest.mark.parametrize(
    ("cell", "captions"),
    [
        (" a dog ", ["a dog"]),
        (5, ["5"]),
        (np.int64(1984), ["1984"]),
        (["a", "b"], ["a", "b"]),
        (("a", 2), ["a", "2"]),
        (np.array(["a", "b"]), ["a", "b"]),
        (["a", None, " "], ["a", "", ""]),
        (None, [""]),
        (float("nan"), [""]),
        ([], [""]),
        ("[]", [""]),
        ('["a \\ud83d\\ude00", "b"]', ["a \U0001f600", "b"]),
        ("['a, b', \"it's\"]", ["a, b", "it's"]),
        ("['a red ball' 'a ball\\nin red']", ["a red ball", "a ball\nin red"]),
        ("['a'\n \"b's\"]", ["a", "b's"]),
        ("[u'a', None]", ["a", ""]),
        ("('a', 'b')", ["a", "b"]),
        ("[music] a man sings [loud]", ["[music] a man sings [loud]"]),
        ("[2019]", ["[2019]"]),
        ('("Hello") on a sign', ['("Hello") on a sign']),
        ('("Hello")', ['("Hello")']),
        ("(a dog)", ["(a dog)"]),
    ],
)
def test_captions_of_a_cell(cell: Any, captions: list[str]) -> None:
    assert captions_of_cell(cell, "t, row 1") == captions


@pytest.mark.parametrize(
    "cell",
    [
        0.5,
        True,
        {"en": "a"},
        [["a"]],
        b"a",
        ["a", {}],
        np.array([0.5]),
        "['a', 'b'c]",
        "a \ud800",
        ["\udc00"],
    ],
)
def test_a_cell_without_text_is_named(cell: Any) -> None:
    with pytest.raises(UserError, match=r"^t, row 1: "):
        captions_of_cell(cell, "t, row 1")


@pytest.mark.parametrize("cell", ["a" * 10_000_000, ["a" * 100_001], "['" + "b" * 10_000_000 + "']"])
def test_a_caption_of_millions_of_letters_is_one_short_line(cell: Any) -> None:
    with pytest.raises(UserError, match="has 10") as refused:
        captions_of_cell(cell, "captions.csv, line 3")
    assert str(refused.value).startswith("captions.csv, line 3: '") and len(str(refused.value)) < 200
    assert captions_of_cell("a" * 100_000, "") == ["a" * 100_000]
