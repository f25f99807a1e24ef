"""The figure of attentions' costs."""

from pathlib import Path
from typing import Any

from miniclip.figures import draw_costs
from miniclip.metrics import Cost
from tests.figures.conftest import is_image, texts_of


def test_a_line_per_attention_in_each_of_three_measures(drawn: list[Any], tmp_path: Path) -> None:
    costs = [
        Cost(name, length, parameters=1, gflops=length, forward_ms=1.0, training_ms=length, peak_mb=1.0)
        for name in ("full", "linformer")
        for length in (16, 32)
    ]
    assert is_image(draw_costs(costs, tmp_path / "costs.png", device="cpu"))
    assert [len(axis.lines) for axis in drawn[0].axes] == [2, 2, 2]
    assert "tokens per caption" in texts_of(drawn[0]) and "linformer" in texts_of(drawn[0])
