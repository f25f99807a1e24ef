"""Packed texts are the lists they were made of, and large sets are read fast and small."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from miniclip.data.text_arrays import StringArray, StringListArray

HARD = ["a dog", "", "狗 🐕\u200d🦺", "line\nbreak", "\ud800 alone", "x" * 100_000]


def test_texts_are_what_they_were_made_of() -> None:
    texts = StringArray.of(HARD)
    assert list(texts) == HARD and len(texts) == 6 and texts[-1] == HARD[-1]
    assert list(texts[2:4]) == HARD[2:4]
    assert list(texts.select(np.array([3, 0, 3]))) == [HARD[3], HARD[0], HARD[3]]
    assert StringArray.of(texts) is texts and list(StringArray.of([])) == []
    with pytest.raises(IndexError):
        texts[6]


def test_lists_of_texts_are_what_they_were_made_of() -> None:
    lists = [["a", "b"], [], ["c"], HARD]
    packed = StringListArray.of(lists)
    assert [list(strings) for strings in packed] == lists
    assert packed.counts.tolist() == [2, 0, 1, 6]
    assert list(packed.flat()) == ["a", "b", "c", *HARD]
    assert list(packed.select(np.array([2, 0])).flat()) == ["c", "a", "b"]
    assert [list(strings) for strings in packed.select(np.array([3, 0]))] == [HARD, ["a", "b"]]
    assert [list(strings) for strings in packed[1:3]] == [[], ["c"]]
    again = pickle.loads(pickle.dumps(packed))
    assert [list(strings) for strings in again] == lists


READ = """
import json, resource, sys, time
from miniclip import data
settings = json.loads(sys.argv[2])
common = dict(image_size=64, crop_scale=[0.5, 1.0], flip=True, limit=None, seed=0)
source = getattr(data, sys.argv[1])  # which imports it
started = time.perf_counter()
sets = source(**settings, **common).datasets()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([time.perf_counter() - started, peak * 1024, [len(side) for side in sets]]))
"""


def read_elsewhere(source: str, **settings: object) -> tuple[float, int, list[int]]:
    """Seconds, peak bytes of the process, and images of both sides."""
    done = subprocess.run(
        [sys.executable, "-c", READ, source, json.dumps(settings)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, peak, counts = json.loads(done.stdout)
    return seconds, peak, counts


def test_flickr30k_is_read_within_three_seconds(tmp_path: Path) -> None:
    images = tmp_path / "flickr30k-images"
    images.mkdir()
    rows = []
    for number in range(31_783):
        name = f"{number:010d}.jpg"
        (images / name).touch()
        part = "train" if number < 29_769 else "val" if number < 30_783 else "test"
        raw = f"Two dogs of picture {number} play with a red ball in the snow ."
        rows.append({"filename": name, "split": part, "sentences": [{"raw": raw}] * 5})
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps({"images": rows}))
    seconds, _, counts = read_elsewhere("Flickr30k", root=str(tmp_path), val_fraction=0.03, split_seed=0)
    assert seconds < 3 and counts == [29_769, 1_014]


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS counts memory in other units")
def test_a_million_rows_fit(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / f"{number}.jpg").touch()
    rows = (
        f'{number % 1000}.jpg,"Caption {number} of a dog, and some more words"\n'
        for number in range(1_000_000)
    )
    (tmp_path / "table.csv").write_text("image,caption\n" + "".join(rows))
    settings = {f"{side}_csv": str(tmp_path / "table.csv") for side in ("train", "val")}
    settings |= {f"{side}_root": str(tmp_path) for side in ("train", "val")}
    seconds, peak, counts = read_elsewhere(
        "CSVTable", image_column=None, caption_column=None, separator=None, **settings
    )
    assert seconds < 60 and peak < 2e9 and counts == [1000, 1000]
