"""What a run says at its end."""

from pathlib import Path
from typing import Any

import pytest

from miniclip.commands.job import _table
from miniclip.errors import counted
from miniclip.runs import RunDirectory


@pytest.mark.parametrize(
    ("best", "said"),
    [
        ({"epoch": 0, "epochs_begun": 1}, "at step 3 (in epoch 1)"),
        ({"epoch": 2, "epochs_begun": 2}, "at step 3 (epoch 2)"),
        ({"epoch": 2}, "at step 3 (epoch 2)"),  # of a run of before both were kept
    ],
)
def test_the_best_validation_is_of_an_epoch_that_there_is(
    best: dict[str, Any], said: str, tmp_path: Path
) -> None:
    recalls = {f"val/{way}_r{k}": 50.0 for way in ("i2t", "t2i") for k in (1, 5, 10)}
    ranks = {f"val/{way}_median_rank": 2 for way in ("i2t", "t2i")}
    summary = {
        "best": {"protocol": "val", "step": 3, **best, **recalls, **ranks},
        "best_rsum": 300.0,
        "validations": 1,
        "images_per_second": 1.0,
        "seconds": 1.0,
    }
    assert said in _table(summary, RunDirectory(tmp_path))
    assert "Best of 1 validation (val)" in _table(summary, RunDirectory(tmp_path))


def test_one_is_singular() -> None:
    assert [counted(n, "row") for n in (0, 1, 1200)] == ["0 rows", "1 row", "1,200 rows"]
