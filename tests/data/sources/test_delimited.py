"""Tables of text: separators, quotes, and text that looks like something else."""

from pathlib import Path

import pytest

from miniclip.data.sources.columns import ColumnNames
from miniclip.data.sources.delimited import read_table
from miniclip.data.sources.json_table import read_json_table
from miniclip.errors import UserError
from tests.data.sources.conftest import written


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


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('"image"x,caption\n0.jpg,a\n', r"t\.csv, line 1: a quote .* does not close"),
        ('"image,caption\n0.jpg,a\n', r"t\.csv, line 1: a quote .* does not close"),
        ('{"image": "0.jpg", "caption": "a"}\n', r"t\.csv holds JSON\. Give it the ending \.jsonl"),
    ],
)
def test_a_header_that_is_none_is_told(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(UserError, match=problem):
        list(read_table(tmp_path / "t.csv"))


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
    rows = list(read_table(table, ColumnNames(caption=given)))
    assert rows == [("0.jpg", "a"), ("0.jpg", "b"), ("1.jpg", "c"), ("1.jpg", "")]
    lines = written(tmp_path, "t.jsonl", '{"image": "0.jpg", "caption_0": "a", "caption_1": ["b", "c"]}')
    assert [caption for _, caption in read_json_table(lines, ColumnNames(caption=given))] == ["a", "b", "c"]
