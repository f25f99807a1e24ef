"""Tables of JSON: lists, lines, and what is neither."""

import json
from pathlib import Path

import pytest

from miniclip import data
from miniclip.data.sources.json_table import read_json_table
from miniclip.errors import UserError
from tests.data.sources.conftest import COMMON, csv_source, datasets, five_captions, sizes, written


@pytest.mark.parametrize("lists", [True, False])
def test_json_lines(tmp_path: Path, picture_folder: Path, lists: bool) -> None:
    rows = [
        {"file_name": f"{i}.jpg", "text": five_captions(i) if lists else five_captions(i)[0]}
        for i in range(12)
    ]
    table = tmp_path / "table.jsonl"
    table.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    tables = {f"{side}_csv": str(table) for side in ("train", "val")}
    roots = {f"{side}_root": str(picture_folder) for side in ("train", "val")}
    columns = {"image_column": None, "caption_column": None, "separator": None}
    source = data.CSVTable(**tables, **roots, **columns, **COMMON)  # type: ignore[arg-type]
    assert sizes(source) == ("val", 12, 12)
    assert len(datasets(source)[0].split.captions[0]) == (5 if lists else 1)


JSON_ROWS = [
    {"image": "0.jpg", "caption": ["a", "b"]},
    {"image": "1.jpg", "caption": 1984},
    {"image": "0.jpg", "caption": "c"},
    {"image": "2.jpg", "caption": None},
]


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".JSON"])
@pytest.mark.parametrize("shape", ["list", "lines", "utf-16"])
def test_json_as_a_list_or_as_lines(tmp_path: Path, picture_folder: Path, ending: str, shape: str) -> None:
    text = json.dumps(JSON_ROWS, indent=1) if shape == "list" else "\n".join(map(json.dumps, JSON_ROWS))
    table = written(tmp_path, f"t{ending}", text.encode("utf-16" if shape == "utf-16" else "utf-8"))
    train, _ = csv_source(picture_folder, table).splits()
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
