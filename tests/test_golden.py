"""The code against golden files: the same losses to the bit, and old runs and sweeps that stay readable.

What was recorded, how, and when to record it anew: `tests/golden/make.py`. Only the command line and the
files that it writes are used, so that nothing here depends on how the code is arranged.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import signal_at_step
from tests.golden import make

RECORDED: dict[str, Any] = json.loads((make.GOLDEN / "losses.json").read_text("utf-8"))

IS_SAME_MACHINE = make.environment() == RECORDED["environment"]
"""Whether the machine and the packages are those of the recording, which rounds every number as they do."""

TOLERANCE = 1e-2
"""Of the first ten steps on another machine or with other packages, relative."""

LATER_TOLERANCE = 1e-1
"""Of the steps after these, to which training carries every difference in rounding, larger each time."""

ONE_RANK = 100 / 40
"""What one image more or less changes in a recall of the golden run, in percent."""


def is_close(step: int, value: float, expected: float) -> bool:
    """Equal to the bit on the machine of the recording, else within the tolerance of the step."""
    if IS_SAME_MACHINE:
        return value == expected
    return math.isclose(value, expected, rel_tol=TOLERANCE if step <= 10 else LATER_TOLERANCE)


def assert_same_metrics(found: dict[str, list[float]], expected: dict[str, list[float]]) -> None:
    """Compare metrics step by step; the first steps that differ tell where to look."""
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert len(found[key]) == len(values), key
        steps = zip(range(1, len(values) + 1), found[key], values, strict=True)
        differing = [step for step in steps if not is_close(*step)]
        assert not differing, (
            f"{key} differs in {len(differing)} steps; step, found, expected: {differing[:3]}"
        )


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(make.RECIPES["default"], id="default", marks=pytest.mark.long),
        pytest.param(make.RECIPES["optimizers"], id="optimizers", marks=pytest.mark.long),
        pytest.param(make.recipe_of("sam", "interval", "muon"), id="some optimizers"),
        pytest.param(make.RECIPES["accumulate"], id="accumulate"),
    ],
)
def test_training_gives_the_same_losses(recipe: make.Recipe, tmp_path: Path) -> None:
    for name, metrics in make.train(recipe, tmp_path / "run").items():
        expected = RECORDED["training"][name]
        assert len(expected["train/loss"]) == 20
        assert_same_metrics(metrics, expected)


def test_the_recipe_as_it_is_begins_with_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal_at_step(monkeypatch, step=5)
    with pytest.raises(SystemExit):
        make.train(make.RECIPES["default"], tmp_path / "run")
    recorded = RECORDED["training"]["default"]
    begun = {key: values[:5] for key, values in recorded.items()}
    assert_same_metrics(make.read_metrics(tmp_path / "run"), begun)


def test_an_old_run_is_evaluated_to_the_same_numbers(tmp_path: Path) -> None:
    found = make.evaluate(make.copy_of_run(tmp_path / "run"))
    expected = RECORDED["evaluation"]
    best = json.loads((make.GOLDEN / "run" / "summary.json").read_text("utf-8"))["best"]
    assert expected["metrics"] == {key: best[f"val/{key}"] for key in expected["metrics"]}

    if IS_SAME_MACHINE:
        assert found == expected
    assert found["metrics"] == pytest.approx(expected["metrics"], abs=ONE_RANK)


def test_an_old_run_goes_on_with_the_same_losses(tmp_path: Path) -> None:
    found = make.resume(make.copy_of_run(tmp_path / "run"), tmp_path / "resumed")
    assert len(found["train/loss"]) == 13
    assert_same_metrics(found, RECORDED["resumed"])


@pytest.mark.parametrize("name", ["run", "sweep"])
def test_the_report_of_old_files_lists_the_same_numbers(name: str, tmp_path: Path) -> None:
    shutil.copytree(make.GOLDEN / name, tmp_path / name)
    rows = make.report(tmp_path / name, tmp_path / "report")
    assert rows == RECORDED[f"report of {name}"]
    page = (tmp_path / "report" / "report.md").read_text("utf-8")
    for row in rows:
        assert f"{float(row['rsum']):.1f}" in page


def test_an_old_sweep_is_done_already(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = tmp_path / "sweep"
    shutil.copytree(make.GOLDEN / "sweep", sweep)
    before = {path: path.read_bytes() for path in sweep.glob("*/*.json*")}
    make.miniclip("train", "-m", *make.SWEEP, f"hydra.sweep.dir={sweep}")
    assert capsys.readouterr().out.count("Done already") == 2
    assert {path: path.read_bytes() for path in sweep.glob("*/*.json*")} == before
    assert not list(sweep.glob("*/checkpoints/*"))
