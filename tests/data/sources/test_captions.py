"""Captions grouped by image."""

from pathlib import Path

import pytest

from miniclip.data.sources.captions import group_by_image
from miniclip.data.sources.json_table import read_json_table
from miniclip.errors import UserError
from tests.data.sources.conftest import csv_source, folder_source, written


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


def test_a_text_too_long_for_a_caption_stops_whatever_holds_it(captioned_root: Path) -> None:
    """A tokenizer would read one of ten million letters for minutes."""
    much = "a" * 100_001
    (captioned_root / "3.txt").write_text(f"a dog\n{much}\n")
    with pytest.raises(UserError, match=r"3\.txt: 'a+\.\.\. has 100,001 letters, more than 100,000"):
        folder_source(captioned_root).splits()

    table = written(captioned_root, "t.csv", f"image,caption\n0.jpg,a dog\n1.jpg,{much}\n")
    with pytest.raises(UserError, match=r"t\.csv, image 1\.jpg: 'a+\.\.\. has 100,001 letters"):
        csv_source(captioned_root, table).splits()
