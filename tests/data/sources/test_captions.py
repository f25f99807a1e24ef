"""Captions grouped by image."""

from pathlib import Path

import pytest

from miniclip.data.sources.captions import group_by_image
from miniclip.data.sources.json_table import read_json_table
from tests.data.sources.conftest import csv_source, written


def test_rows_of_one_image_are_its_captions(tmp_path: Path, picture_folder: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("image,caption\n0.jpg,one\n1.jpg,two\n0.jpg,three\n2.jpg, \n")
    train, _ = csv_source(picture_folder, table).splits()
    assert list(train.ids) == ["0.jpg", "1.jpg"]
    assert list(map(list, train.captions)) == [["one", "three"], ["two"]]


def test_missing_captions_are_counted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = ['["a", ""]', "null", '" "', "NaN", "[]", "[null]", '"[]"']
    content = "\n".join(f'{{"image": "0.jpg", "caption": {caption}}}' for caption in lines)
    table = written(tmp_path, "t.jsonl", content)
    captions = group_by_image(read_json_table(table), table)
    assert captions == {"0.jpg": ["a"]}
    assert len(caplog.records) == 1 and "7 rows without a caption" in caplog.text
