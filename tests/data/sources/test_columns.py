"""Columns: which one is meant."""

import logging
from typing import Any

import pytest

from miniclip.data.sources.columns import (
    CAPTION_COLUMNS,
    ColumnNames,
    Columns,
    find_caption_columns,
    find_column,
    find_columns,
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


def test_two_numbered_columns_of_one_name_stop() -> None:
    """And are not read as the first of them twice."""
    with pytest.raises(UserError, match=r"t has 2 columns that can be caption_0: 'caption_0', 'caption_0'"):
        find_caption_columns(["image", "caption_0", "caption_0"], None, source="t")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, ["caption"]),
        (["caption", "Caption"], ["caption"]),
        ("CAPTION_1", ["caption_1"]),
        (["caption_1", "Caption"], ["caption_1", "caption"]),
    ],
)
def test_caption_columns_can_be_given(given: Any, found: list[str]) -> None:
    assert find_caption_columns(["image", "caption", "caption_1"], given, source="t") == found


def test_caption_columns_that_are_not_taken_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert find_caption_columns(["title", "caption_1", "caption_2"], None, source="t") == ["title"]
        assert find_caption_columns(["image", "caption"], None, source="t") == ["caption"]
    others = "data.caption_column=[...] takes others, too: caption_1, caption_2"
    assert caplog.messages == [f"t: the captions are the columns title; {others}."]


def test_all_columns_of_a_table_are_found_together() -> None:
    names = ["ID", "Image", "Title", "kind", "Split"]
    found = find_columns(names, ColumnNames(label="Kind", split="split"), source="t")
    assert found == Columns("Image", ["Title"], None, "kind", "Split")
    assert found.every() == ["Image", "Title", "kind", "Split"]
    without = find_columns(names[:4], ColumnNames(split="split"), source="t")
    assert without.label is None and without.split is None


def test_a_field_is_named_behind_a_dot_where_captions_may_be_objects() -> None:
    given = ColumnNames(caption="caption.en")
    found = find_columns(["image", "caption"], given, source="t", has_objects=True)
    assert (found.captions, found.field) == (["caption"], "en")
    with pytest.raises(UserError, match=r"t has no column caption\.en"):
        find_columns(["image", "caption"], given, source="t")
    found = find_columns(["image", "Caption.en"], given, source="t", has_objects=True)
    assert (found.captions, found.field) == (["Caption.en"], None)
