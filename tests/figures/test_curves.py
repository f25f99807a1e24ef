"""Curves of a run, also of one that has validated nothing."""

from pathlib import Path
from typing import Any

from miniclip.figures import draw_curves
from miniclip.metrics import recall_keys
from tests.figures.conftest import is_image, texts_of


def test_each_recall_has_a_line_through_its_validations(drawn: list[Any], tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"step": step, "train/loss": 1 / step, "train/lr": 0.1, "train/logit_scale": 14.0}
        for step in range(1, 5)
    ]
    recalls = {f"val/{key}": 50.0 for key in recall_keys()}
    records += [{"step": step, "val/loss": 1.0, **recalls} for step in (2, 4)]
    assert is_image(draw_curves(records, tmp_path / "curves.png"))
    loss, recall, _, _ = drawn[0].axes
    assert [len(line.get_xdata()) for line in loss.lines] == [4, 2]
    assert len(recall.lines) == 6 and all(list(line.get_xdata()) == [2, 4] for line in recall.lines)
    assert "R@10 text to image" in texts_of(drawn[0])
    assert all(
        (line.get_linestyle() == "--") == line.get_label().endswith("text to image")
        for line in recall.lines
    )


def test_a_run_without_validations_is_drawn(tmp_path: Path) -> None:
    assert is_image(draw_curves([{"step": 1, "train/loss": 1.0}], tmp_path / "curves.png"))


def test_there_is_no_half_step(drawn: list[Any], tmp_path: Path) -> None:
    recalls = {f"val/{key}": 50.0 for key in recall_keys()}
    draw_curves([{"step": 30, "val/loss": 1.0, **recalls}], tmp_path / "curves.png")
    drawn[0].canvas.draw()
    for axis in drawn[0].axes[:2]:
        assert all(float(tick).is_integer() for tick in axis.get_xticks())
