"""Tables: separators, columns, text that looks like something else, and errors."""

import json
from pathlib import Path
from typing import Any

import pytest

from miniclip.data import CSVTable
from miniclip.data.sources.captions import group_by_image
from miniclip.data.sources.image_names import find_images
from miniclip.data.sources.table import read_json_table, read_table
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


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            "0.jpg,A dog runs, jumps, and barks\n",
            r"line 2: 4 columns where the header has 2\. Put",
        ),
        ("0.jpg,a\n1.jpg\n", "line 3: 1 columns"),
        ('0.jpg,a\n1.jpg,"A dog\n2.jpg,A cat\n3.jpg,b\n', "line 3: a quote"),
        ('0.jpg,a\n1.jpg,"A dog\n2.jpg,A cat"\n3.jpg,b\n', "line 3: a quote.*swallows"),
        ('0.jpg,"A dog\n1.jpg,A cat\n2.jpg,"A hat"\n', "line 2: a quote"),
        ('0.jpg,"Hello" she said\n', "line 2: a quote"),
        ('0.jpg,"a \\"red\\" ball"\n', "line 2: a quote"),
        ('"0.jpg,a\n1.jpg",b\n', "line 2: a quote.*swallows"),
    ],
)
def test_no_row_is_cut_or_swallowed(tmp_path: Path, content: str, problem: str) -> None:
    table = written(tmp_path, "table.csv", "image,caption\n" + content)
    with pytest.raises(UserError, match=problem):
        list(read_table(table))


def test_a_swallowed_row_is_seen_in_a_table_with_more_columns(tmp_path: Path) -> None:
    table = written(tmp_path, "t.csv", 'id,caption,image\n1,"A dog,0.jpg\n2,A cat",1.jpg\n3,x,2.jpg\n')
    with pytest.raises(UserError, match="line 2: a quote"):
        list(read_table(table))


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        ('0.jpg,A 5" dog\n', 'A 5" dog'),
        ('0.jpg, "A dog, red"\n', "A dog, red"),
        ('0.jpg,"A dog,\nred, brown"\n', "A dog,\nred, brown"),
    ],
)
def test_quotes_of_good_rows(tmp_path: Path, content: str, caption: str) -> None:
    table = written(tmp_path, "table.csv", "image,caption\n" + content)
    assert list(read_table(table)) == [("0.jpg", caption)]


@pytest.mark.parametrize(
    ("field", "caption"),
    [
        ('"A dog', '"A dog'),
        ('"A" and "B"', '"A" and "B"'),
        ('"A ""red"" dog"', 'A "red" dog'),
        ('"Hello" she said', '"Hello" she said'),
    ],
)
def test_quotes_between_tabs_are_characters(tmp_path: Path, field: str, caption: str) -> None:
    table = written(tmp_path, "table.tsv", f"image\tcaption\n0.jpg\t{field}\n1.jpg\tb\n")
    assert list(read_table(table)) == [("0.jpg", caption), ("1.jpg", "b")]


def test_a_tab_within_a_caption_is_named(tmp_path: Path) -> None:
    table = written(tmp_path, "table.tsv", "image\tcaption\n0.jpg\ta\tb\n")
    with pytest.raises(UserError, match=r"line 2: 3 columns where the header has 2.*neither tabs"):
        list(read_table(table))


def test_a_list_in_a_cell_is_several_captions(tmp_path: Path) -> None:
    rows = ['0.jpg,"[""a red ball"", ""a ball""]"', "1.jpg,\"['a hat', 'hats']\"", "2.jpg,[sic] a cup"]
    table = written(tmp_path, "table.csv", "\n".join(["image,raw", *rows]))
    captions = [caption for _, caption in read_table(table)]
    assert captions == ["a red ball", "a ball", "a hat", "hats", "[sic] a cup"]


def test_a_broken_list_in_a_cell_is_named(tmp_path: Path) -> None:
    table = written(tmp_path, "table.csv", "image,caption\n0.jpg,a\n1.jpg,\"['a' + 'b']\"\n")
    with pytest.raises(UserError, match=r"line 3: .* begins and ends like a list"):
        list(read_table(table))


@pytest.mark.parametrize("given", [None, ["caption_0", "Caption_1"]])
def test_several_caption_columns(tmp_path: Path, given: list[str] | None) -> None:
    table = written(tmp_path, "table.csv", "image,caption_0,caption_1\n0.jpg,a,b\n1.jpg,c,\n")
    rows = list(read_table(table, caption_column=given))
    assert rows == [("0.jpg", "a"), ("0.jpg", "b"), ("1.jpg", "c"), ("1.jpg", "")]
    lines = written(tmp_path, "t.jsonl", '{"image": "0.jpg", "caption_0": "a", "caption_1": ["b", "c"]}')
    assert [caption for _, caption in read_json_table(lines, caption_column=given)] == ["a", "b", "c"]


ROWS = [
    {"image": "0.jpg", "caption": ["a", "b"]},
    {"image": "1.jpg", "caption": 1984},
    {"image": "0.jpg", "caption": "c"},
    {"image": "2.jpg", "caption": None},
]


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".JSON"])
@pytest.mark.parametrize("shape", ["list", "lines", "utf-16"])
def test_json_as_a_list_or_as_lines(tmp_path: Path, picture_folder: Path, ending: str, shape: str) -> None:
    text = json.dumps(ROWS, indent=1) if shape == "list" else "\n".join(map(json.dumps, ROWS))
    table = written(tmp_path, f"t{ending}", text.encode("utf-16" if shape == "utf-16" else "utf-8"))
    train, _ = source(picture_folder, table).splits()
    assert list(train.ids) == ["0.jpg", "1.jpg"]
    assert list(map(list, train.captions)) == [["a", "b", "c"], ["1984"]]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"0.jpg": ["a"], "1.jpg": ["b"]}', r"one object with the keys \['0.jpg', '1.jpg'\]"),
        ('"text"', "one str"),
        ('["0.jpg", "a"]', "object 1: '0.jpg' is not an object"),
        ('[{"image": "0.jpg", "caption": "a"},\n{"image": ', "line 2: no JSON"),
        ('{"image": "0.jpg", "caption": "a"}\n{"image": ', "line 2: no JSON"),
        ('[{"image": "0.jpg", "caption": 0.5}]', "object 1: a caption is a float"),
        ('[{"image": "0.jpg", "caption": {"en": "a"}}]', "object 1: a caption is an object"),
        ('[{"image": 5, "caption": "a"}]', "object 1: image is 5, not the name"),
        ('[{"image": "0.jpg", "caption": "a \\ud800"}]', "object 1: .* lone surrogate"),
        ('[{"image": "\\ud800.jpg", "caption": "a"}]', "object 1: .* lone surrogate"),
    ],
)
def test_json_of_another_kind_is_named(tmp_path: Path, content: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        list(read_json_table(written(tmp_path, "t.json", content)))


def test_one_table_is_shared_out_by_image(tmp_path: Path, picture_folder: Path) -> None:
    rows = [f"{name}{number % 12}.jpg,caption {number}" for number in range(24) for name in ("", "./")]
    table = written(tmp_path, "t.csv", "\n".join(["image,caption", *rows]))
    one = {"val_csv": None, "val_root": None, "val_fraction": 0.25}
    train, val = source(picture_folder, table, **one).splits()
    assert (len(train), len(val), val.name) == (9, 3, "seeded val")
    assert set(train.ids).isdisjoint(val.ids)
    assert all(len(captions) == 4 for split in (train, val) for captions in split.captions)
    again = source(picture_folder, table, **one).splits()
    other = source(picture_folder, table, **one, split_seed=1).splits()
    assert list(again[1].ids) == list(val.ids) != list(other[1].ids)


def test_each_file_is_looked_for_once(
    tmp_path: Path, picture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[Path] = []

    def counting(root: Path, *names: Any, **settings: Any) -> dict[str, str]:
        searched.append(root)
        return find_images(root, *names, **settings)

    monkeypatch.setattr("miniclip.data.captions.find_images", counting)
    table = written(tmp_path, "t.csv", "image,caption\n0.jpg,a\n1.jpg,b\n")
    source(picture_folder, table, val_csv=None, val_root=None, val_fraction=0.5).splits()
    assert searched == [picture_folder]


def test_the_same_table_twice_stops(tmp_path: Path, picture_folder: Path) -> None:
    train = written(tmp_path, "train.csv", "image,caption\n0.jpg,a\n1.jpg,b\n")
    with pytest.raises(UserError, match="The train part holds all of the val part as well, 2 images"):
        source(picture_folder, train, val_csv=str(train), val_root=None).training_sets()


def test_validation_images_that_train_are_counted_aloud(
    tmp_path: Path, picture_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = written(tmp_path, "train.csv", "image,caption\n0.jpg,a\n1.jpg,b\n")
    val = written(tmp_path, "val.csv", "image,caption\n./1.JPG,b\n2.jpg,c\n")
    source(picture_folder, train, val_csv=str(val), val_root=None).training_sets()
    assert "The train part holds 1 of 2 images of the val part as well" in caplog.text


def test_missing_captions_are_counted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = ['["a", ""]', "null", '" "', "NaN", "[]", "[null]", '"[]"']
    content = "\n".join(f'{{"image": "0.jpg", "caption": {caption}}}' for caption in lines)
    table = written(tmp_path, "t.jsonl", content)
    captions = group_by_image(read_json_table(table), table)
    assert captions == {"0.jpg": ["a"]}
    assert len(caplog.records) == 1 and "7 rows without a caption" in caplog.text
