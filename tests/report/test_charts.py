"""Charts of groups over a setting."""

from pathlib import Path

import pytest

from miniclip.figures import new_figure
from miniclip.report.charts import PANELS, _fitting, _scale, draw_axis
from miniclip.report.groups import group_runs
from tests.report.conftest import run_of

pytest.importorskip("scipy", reason="needs the extra report")


@pytest.mark.parametrize(
    ("values", "scale"),
    [([1, 2, 4], "linear"), ([0.01, 0.05, 0.1], "log"), ([0, 0.01, 0.1], "symlog"), ([0, 0, 0], "linear")],
)
def test_a_setting_that_spans_a_factor_of_ten_has_a_logarithmic_axis(
    values: list[float], scale: str
) -> None:
    _, axes = new_figure(1, 1, size=(3, 3))
    axes[0, 0].plot(values, [1, 2, 3])
    _scale(axes[0, 0], values)
    assert axes[0, 0].get_xscale() == scale


def test_time_is_that_of_training_in_the_unit_that_fits() -> None:
    of_time = PANELS[-1]
    run = run_of(0.0, 0, 300)
    groups, _ = group_runs([run])
    assert _fitting(of_time, groups).unit == "minutes of training"

    run.validations[0]["train/seconds"] = 5.0
    short = _fitting(of_time, groups)
    assert (short.unit, short.scale) == ("seconds of training", 1)
    assert _fitting(PANELS[0], groups) == PANELS[0]


def test_a_line_needs_three_numbers(tmp_path: Path) -> None:
    groups, _ = group_runs([run_of(rho, 0, 300 + 100 * rho) for rho in (0.0, 0.1, 0.2)])
    assert draw_axis(groups[:2], "optimizer.rho", tmp_path / "two.svg") is None
    assert draw_axis(groups, "optimizer.rho", tmp_path / "three.svg") == tmp_path / "three.svg"
    assert draw_axis(groups, "optimizer.base.lr", tmp_path / "none.svg") is None
    assert [path.name for path in tmp_path.iterdir()] == ["three.svg"]
