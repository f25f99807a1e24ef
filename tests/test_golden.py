"""The code against golden files: the same losses to the bit, and old runs and sweeps that stay readable.

What was recorded, how, and when to record it anew: `tests/golden/make.py`. Only the command line and the
files that it writes are used, so that nothing here depends on how the code is arranged.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import signal_at_step
from tests.golden import make

RECORDED: dict[str, Any] = json.loads((make.GOLDEN / "losses.json").read_text("utf-8"))

HERE = make.environment()

IS_SAME_MACHINE = RECORDED["environment"] == HERE
"""Whether the machine and the packages are those of the recording, which rounds every number as they do."""

HAS_SAME_PACKAGES = all(HERE[package] == RECORDED["environment"][package] for package in make.PACKAGES)

OTHER_KERNELS = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
"""Have torch and oneDNN choose the kernels of a processor without AVX, which round otherwise."""

TOLERANCES: dict[str, Sequence[tuple[int, float]]] = {
    "smooth": [(10, 1e-5)],
    "default": [(5, 1e-5), (10, 1e-4), (20, 2e-3)],
    "kinked": [(2, 1e-5), (5, 5e-3)],
    "resumed": [(13, 1e-5)],
}
"""How far losses may differ, relative, on another class of processor: pairs of a last step and a limit.

At least five times what three other sets of kernels came to. Where no limit is left, a difference in
rounding has grown to one between two models, and values are finite.
"""

OTHER_PACKAGES = 1e-2
"""The least limit with other versions of packages, which may decode, crop or begin otherwise."""

GRAD_NORM = 100
"""How much further gradient norms may differ than losses: they are what is left of terms that cancel."""

ONE_RANK = 100 / 40
"""What one image more or less changes in a recall of the golden run, in percent."""


def tolerance(name: str, key: str, step: int) -> float:
    """Relative difference of a metric that a step may show elsewhere; infinite for any finite value."""
    kind = name.partition(" ")[0]
    limits = TOLERANCES.get(kind, TOLERANCES["kinked"])
    limit = next((limit for last_step, limit in limits if step <= last_step), math.inf)

    limit = limit if HAS_SAME_PACKAGES else max(limit, OTHER_PACKAGES)
    return limit * GRAD_NORM if key == "train/grad_norm" else limit


def assert_same_metrics(
    found: dict[str, list[float]], expected: dict[str, list[float]], name: str, *, exactly: bool
) -> None:
    """Compare metrics step by step; the first steps that differ tell where to look.

    Args:
        name: of the recipe, or "resumed".
        exactly: whether to the bit, else within the tolerance of each step.
    """
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert len(found[key]) == len(values), key
        steps = zip(range(1, len(values) + 1), found[key], values, strict=True)
        differing = [
            (step, value, wanted)
            for step, value, wanted in steps
            if not math.isclose(value, wanted, rel_tol=0 if exactly else tolerance(name, key, step))
        ]
        assert not differing, (
            f"{name}: {key} differs in {len(differing)} steps; step, found, expected: {differing[:3]}"
        )


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(make.RECIPES["default"], id="default", marks=pytest.mark.long),
        pytest.param(make.RECIPES["optimizers"], id="optimizers", marks=pytest.mark.long),
        pytest.param(make.RECIPES["smooth"], id="smooth", marks=pytest.mark.long),
        pytest.param(make.recipe_of("sam", "muon"), id="some optimizers"),
        pytest.param(make.RECIPES["accumulate"], id="accumulate"),
    ],
)
def test_training_gives_the_same_losses(recipe: make.Recipe, tmp_path: Path) -> None:
    for name, metrics in make.train(recipe, tmp_path / "run").items():
        expected = RECORDED["training"][name]
        assert len(expected["train/loss"]) == (10 if name.startswith("smooth") else 20)
        assert_same_metrics(metrics, expected, name, exactly=IS_SAME_MACHINE)


@pytest.mark.parametrize(
    "optimizers",
    [
        pytest.param(("sam",), id="sam"),
        pytest.param(make.SMOOTH_OPTIMIZERS, id="all", marks=pytest.mark.long),
    ],
)
def test_another_class_of_processor_gives_losses_within_1e_5(
    optimizers: Sequence[str], tmp_path: Path
) -> None:
    capability, trained = train_with_other_kernels(optimizers, tmp_path)
    assert capability == "DEFAULT"

    for name, metrics in trained.items():
        expected = RECORDED["training"][name]
        if HAS_SAME_PACKAGES:
            assert metrics != expected, "the same kernels were at work"
            assert tolerance(name, "train/loss", 10) == 1e-5
        assert_same_metrics(metrics, expected, name, exactly=False)


def train_with_other_kernels(optimizers: Sequence[str], folder: Path) -> tuple[str, dict[str, Any]]:
    """The kernels that torch chose in a process of its own, and the metrics of smooth recipes."""
    program = (
        "import json, sys, torch; from pathlib import Path; from tests.golden import make;"
        "folder = Path(sys.argv[1]);"
        "trained = make.train(make.smooth_recipe_of(*sys.argv[2:]), folder / 'sweep');"
        "answer = [torch.backends.cpu.get_cpu_capability(), trained];"
        "(folder / 'trained.json').write_text(json.dumps(answer))"
    )
    words = [sys.executable, "-c", program, str(folder), *optimizers]
    environment = {**os.environ, **OTHER_KERNELS}
    done = subprocess.run(words, cwd=make.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    capability, trained = json.loads((folder / "trained.json").read_text("utf-8"))
    return capability, trained


def test_the_recipe_as_it_is_begins_with_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal_at_step(monkeypatch, step=5)
    with pytest.raises(SystemExit):
        make.train(make.RECIPES["default"], tmp_path / "run")
    recorded = RECORDED["training"]["default"]
    begun = {key: values[:5] for key, values in recorded.items()}
    assert_same_metrics(make.read_metrics(tmp_path / "run"), begun, "default", exactly=IS_SAME_MACHINE)


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
    assert_same_metrics(found, RECORDED["resumed"], "resumed", exactly=IS_SAME_MACHINE)


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
