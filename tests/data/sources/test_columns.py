"""Columns: which one is meant, and what a cell's captions are."""

import logging
from typing import Any

import numpy as np
import pytest

from miniclip.data.sources.columns import (
    CAPTION_COLUMNS,
    captions_of_cell,
    find_caption_columns,
    find_column,
)
from miniclip.errors import UserError


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["id", "Caption"], "Caption"),
        (["id", " CAPTION "], " CAPTION "),
        (["TEXT", "caption"], "caption"),
        (["Caption", "caption"], "caption"),
    ],
)
def test_a_column_is_found_whatever_its_case(names: list[str], found: str) -> None:
    assert find_column(names, CAPTION_COLUMNS, source="t", setting="caption_column") == found


@pytest.mark.parametrize("names", [["Caption", "CAPTION"], ["caption", "caption"]])
def test_two_columns_that_match_equally_stop(names: list[str]) -> None:
    with pytest.raises(UserError, match=r"t has 2 columns that can be caption.*data.caption_column="):
        find_column(names, CAPTION_COLUMNS, source="t", setting="caption_column")


def test_numbered_columns_are_all_taken(caplog: pytest.LogCaptureFixture) -> None:
    names = ["image", "Caption_10", "caption_0", "caption 2"]
    with caplog.at_level(logging.INFO):
        found = find_caption_columns(names, None, source="t")
    assert found == ["caption_0", "caption 2", "Caption_10"]
    assert "t: the captions are the columns caption_0, caption 2, Caption_10." in caplog.text


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, ["caption"]),
        ("CAPTION_1", ["caption_1"]),
        (["caption_1", "Caption"], ["caption_1", "caption"]),
    ],
)
def test_caption_columns_can_be_given(given: Any, found: list[str]) -> None:
    assert find_caption_columns(["image", "caption", "caption_1"], given, source="t") == found


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
