"""Tables: separators, columns, text that looks like something else, and errors."""

from pathlib import Path
from typing import Any

import pytest

from miniclip.data import CSVTable
from miniclip.data.table import read_table
from miniclip.errors import SettingError, UserError


def source(folder: Path, table: Path, **changes: Any) -> CSVTable:
    settings: dict[str, Any] = {
        "train_csv": str(table),
        "train_root": str(folder),
        "val_csv": str(table),
        "val_root": str(folder),
        "image_column": None,
        "caption_column": None,
        "separator": None,
        "image_size": 32,
        "crop_scale": [0.5, 1.0],
        "flip": True,
        "limit": None,
        "seed": 0,
    }
    return CSVTable(**settings | changes)


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_separators_line_ends_and_byte_order_marks(
    tmp_path: Path, separator: str, newline: str, mark: str
) -> None:
    table = tmp_path / "table.csv"
    lines = [f"id{separator}Image{separator}Caption", f'7{separator}0.jpg{separator}"a, b; c|d"']
    table.write_bytes((mark + newline.join(lines)).encode())
    assert list(read_table(table)) == [("0.jpg", "a, b; c|d")]


def test_words_that_look_like_missing_values_are_words(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("image,caption\n0.jpg,None\n1.jpg,NA\n2.jpg,nan\n")
    assert [caption for _, caption in read_table(table)] == ["None", "NA", "nan"]


def test_rows_of_one_image_are_its_captions(tmp_path: Path, picture_folder: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("image,caption\n0.jpg,one\n1.jpg,two\n0.jpg,three\n2.jpg, \n")
    train, _ = source(picture_folder, table).splits()
    assert list(train.ids) == ["0.jpg", "1.jpg"]
    assert list(map(list, train.captions)) == [["one", "three"], ["two"]]


def test_columns_and_separator_can_be_given(tmp_path: Path, picture_folder: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("what,where,image\nred,0.jpg,no\n")
    train, _ = source(
        picture_folder, table, image_column="where", caption_column="what", separator=","
    ).splits()
    assert list(train.ids) == ["0.jpg"] and list(train.captions[0]) == ["red"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"image,caption\n", "holds no captions"),
        (b"picture,words\n0.jpg,red\n", "it has: picture, words"),
        (b"image,caption\n0.jpg\n", "line 2"),
        ("image,caption\n0.jpg,grün\n".encode("latin-1"), "UTF-8"),
        (b"image,caption\nmissing.jpg,red\nalso.jpg,blue\n", "missing.jpg' and 1 more"),
        (b"image,caption\n../secret.jpg,red\n", "outside the image folder"),
        (b"image,caption\n/etc/passwd,red\n", "outside the image folder"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, picture_folder: Path, content: bytes, problem: str) -> None:
    table = tmp_path / "table.csv"
    table.write_bytes(content)
    with pytest.raises(UserError, match=problem):
        source(picture_folder, table).datasets()


@pytest.mark.parametrize("setting", ["train_csv", "train_root", "val_csv", "val_root"])
def test_a_missing_path_is_named_by_its_setting(tmp_path: Path, picture_folder: Path, setting: str) -> None:
    table = tmp_path / "table.csv"
    table.write_text("image,caption\n0.jpg,red\n")
    with pytest.raises(SettingError) as caught:
        source(picture_folder, table, **{setting: str(tmp_path / "nowhere")})
    assert caught.value.setting == setting
