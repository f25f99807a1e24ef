"""Small files of a stranger's: what is read, what is refused and how that is told."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miniclip.runs import DamagedFile, RunFiles, small_files
from miniclip.runs.shapes import COUNT, NUMBER, NUMBER_OR_NULL, TEXT
from miniclip.runs.small_files import (
    read_arrays,
    read_object,
    read_records,
    read_text,
    read_yaml,
)

SHAPE = {
    "name": TEXT,
    "seed?": COUNT,
    "keys?": [TEXT],
    "parts?": {"*": {"rho": NUMBER}},
    "val/*": NUMBER_OR_NULL,
}


@pytest.mark.parametrize(
    "content",
    [
        {"name": "x"},
        {"name": "x", "seed": 3, "keys": [], "parts": {}, "other": [1, {"a": None}]},
        {"name": "x", "parts": {"a": {"rho": 1}, "b": {"rho": 0.5}}, "val/loss": None, "val/rsum": 3.5},
    ],
)
def test_an_object_of_the_right_shape_is_read_as_it_is(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(content))
    assert read_object(path, SHAPE) == content


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "Expecting value"),
        ("[1]", "it is a list, not an object"),
        ("7", "it is a whole number, not an object"),
        ("{}", "name is missing"),
        ('{"name": 1}', "name is a whole number, not text"),
        ('{"name": "x", "seed": true}', "seed is true or false, not a whole number"),
        ('{"name": "x", "seed": 1.5}', "seed is a number, not a whole number"),
        ('{"name": "x", "keys": ["a", 2]}', r"keys\[1\] is a whole number, not text"),
        ('{"name": "x", "parts": {"a": {}}}', r"parts\.a\.rho is missing"),
        ('{"name": "x", "parts": {"a": {"rho": 1e999}}}', r"parts\.a\.rho is no finite number"),
        ('{"name": "x", "val/rsum": "high"}', "val/rsum is text, not a whole number or a number or null"),
        ('{"name": "x", "val/rsum": 1' + "0" * 400 + "}", "val/rsum is no finite number"),
        ('{"name": "\\ud800"}', "surrogates not allowed"),
        ('{"name": "x", "a": ' + "[" * 60 + "]" * 60 + "}", "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_another_shape_is_told_by_its_place(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(DamagedFile, match=problem) as caught:
        read_object(path, SHAPE)
    assert str(caught.value).startswith(f"{path} is damaged (") and "\n" not in str(caught.value)


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    """A pipe without a writer would be waited for without end, a device gives without end."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, problem in ((tmp_path, "a folder lies in its place"), (fifo, "no regular file")):
        with pytest.raises(DamagedFile, match=problem):
            read_text(path)
    with pytest.raises(DamagedFile, match="no regular file"):
        read_text(Path("/dev/zero"))
    assert read_text(tmp_path / "nowhere") is None and read_text(tmp_path / "fifo" / "below") is None


def test_a_huge_file_and_other_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"ab\xff")
    with pytest.raises(DamagedFile, match="byte 3 is no UTF-8"):
        read_text(path)
    os.truncate(path, 2**33)
    with pytest.raises(DamagedFile, match="8,589,934,592 bytes"):
        read_text(path)


def test_half_a_record_at_the_end_is_none_and_a_damaged_one_is_told_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a":')
    assert read_records(path, {"a": COUNT}) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\n{"a"{"a": 2}\n')
    with pytest.raises(DamagedFile, match="line 2: "):
        read_records(path, {"a": COUNT})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "expected the node content"),
        ("a: &x [1]\nb: *x\n", "refers to other places of itself"),
        ("a: 2020-01-01\n", "a is a date, which is no plain data"),
        ("a: !!python/object:os.system {}\n", "could not determine a constructor"),
        ("? [1]\n: 2\n", "unhashable"),
        ("", "it is null, not an object"),
    ],
)
def test_yaml_is_plain_data(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(DamagedFile, match=problem):
        read_yaml(path, {})


def test_arrays_that_would_fill_the_memory_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ranks.npz"
    np.savez_compressed(path, a=np.zeros(2**20))  # eight kilobytes of eight megabytes
    with monkeypatch.context() as patch, pytest.raises(DamagedFile, match="take 8,388"):
        patch.setattr(small_files, "MOST_BYTES_OF_ARRAYS", 2**20)
        read_arrays(path, ["a"])
    for wrong in (np.zeros(3), np.zeros((2, 2), int), np.array([object()])):
        np.savez(path, a=wrong)
        with pytest.raises(DamagedFile):
            read_arrays(path, ["a"])
    np.savez(path, a=np.arange(3))
    found = read_arrays(path, ["a"])
    assert found is not None and found["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("owners", "problem"),
    [([0, 2], "captions of images that it has not"), ([0], "ranks of 2 captions"), ([0, -1], "has not")],
)
def test_ranks_are_of_the_images_that_there_are(owners: list[int], problem: str, tmp_path: Path) -> None:
    ranks = {"image_to_text": [0, 1], "text_to_image": [0, 0], "image_of_caption": owners}
    np.savez(tmp_path / "ranks.npz", **{name: np.array(values) for name, values in ranks.items()})
    with pytest.raises(DamagedFile, match=problem):
        RunFiles(tmp_path).read_ranks()
