"""The retrieval task."""

import pytest

from miniclip.evaluation import TaskContext
from miniclip.evaluation.tasks import Retrieval, retrieval
from miniclip.metrics import recall_keys


def test_recalls_come_with_their_intervals_and_chance(context: TaskContext) -> None:
    numbers, lines = Retrieval().run(context)
    assert set(numbers) == {"metrics", "intervals_95", "chance", "folds"}
    for key in (*recall_keys(), "rsum"):
        low, high = numbers["intervals_95"][key]
        assert low <= numbers["metrics"][key] <= high
    assert numbers["folds"] == [] and len(lines) == 4
    assert lines[0].split() == ["R@1", "R@5", "R@10", "median", "rank"]


def test_folds_are_told_where_there_are_enough_images(
    context: TaskContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "FOLD_SIZES", (10, 15, 20))
    found = Retrieval().run(context)
    folds = [(fold["images"], fold["count"]) for fold in found.numbers["folds"]]
    assert folds == [(10, 3), (15, 2)]  # of 30 images
    assert sum("folds of" in line for line in found.lines) == 2
