"""Charts of groups over a setting."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from matplotlib.colors import to_hex

from miniclip.figures import new_figure
from miniclip.report.charts import MAX_COLORS, PANELS, _fitting, _scale, draw_axis, draw_progress
from miniclip.report.groups import group_runs
from tests.report.conftest import run_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

pytest.importorskip("scipy", reason="needs the extra report")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> "list[Axes]":
    """The axes of the figures that a test draws, the first of each."""
    found: list[Axes] = []

    def kept(rows: int, columns: int, *, size: tuple[float, float]) -> tuple[object, object]:
        figure, axes = new_figure(rows, columns, size=size)
        found.append(axes[0, 0])
        return figure, axes

    monkeypatch.setattr("miniclip.report.charts.new_figure", kept)
    return found


def labels(axis: "Axes") -> list[str]:
    """The texts of its legend."""
    legend = axis.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


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


@pytest.mark.parametrize(
    "values",
    [
        [0.00012345678 * 1.4**number for number in range(14)],
        [0.0, 0.01, 0.02, 0.05, 0.07, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0],
        [0.05, 0.07, 1e9],
    ],
)
def test_ticks_leave_each_other_room(values: list[float], tmp_path: Path, drawn: "list[Axes]") -> None:
    """The smallest and the largest value have one."""
    groups, _ = group_runs([run_of(value, 0, 300) for value in values])
    draw_axis(groups, "optimizer.rho", tmp_path / "many.png")
    (axis,) = drawn
    ticks = list(axis.get_xticks())
    assert 2 <= len(ticks) <= 8 and set(ticks) <= set(values)
    assert (ticks[0], ticks[-1]) == (values[0], values[-1])
    boxes = [label.get_window_extent() for label in axis.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_a_line_across_has_the_name_of_its_group_and_the_color_of_its_line(
    tmp_path: Path, drawn: "list[Axes]"
) -> None:
    runs = []
    for expansion in (2, 4):
        for k in (4, 8, 16, None):
            run = run_of(0.0, 0, 300 + expansion + (k or 0))
            runs.append(replace(run, settings={"text.k": k, "text.expansion": expansion, "seed": 0}))
    draw_axis(group_runs(runs)[0], "text.k", tmp_path / "grid.png")
    (axis,) = drawn
    across = {line.get_label(): line for line in axis.get_lines() if line.get_linestyle() == "--"}
    assert set(across) == {"k=null, expansion=2", "k=null, expansion=4"} <= set(labels(axis))
    colors = {bars.get_label(): to_hex(bars.lines[0].get_color()) for bars in axis.containers}
    for expansion in (2, 4):
        line = across[f"k=null, expansion={expansion}"]
        assert to_hex(line.get_color()) == colors[f"expansion={expansion}"]
    assert len(set(colors.values())) == 2


@pytest.mark.parametrize(("num_groups", "has_others"), [(MAX_COLORS, False), (MAX_COLORS + 3, True)])
def test_the_legend_tells_of_groups_without_a_color(
    num_groups: int, has_others: bool, tmp_path: Path, drawn: "list[Axes]"
) -> None:
    runs = [run_of(number / 100, 0, 300) for number in range(num_groups)]
    for run in runs:
        run.validations[0]["val/loss"] = 1.0
    groups, _ = group_runs(runs)
    draw_progress(groups, tmp_path / "curves.png")
    told = labels(drawn[0])
    assert told[:MAX_COLORS] == [group.name for group in groups[:MAX_COLORS]]
    assert told[MAX_COLORS:] == ["others"] * has_others
