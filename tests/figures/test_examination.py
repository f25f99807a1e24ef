"""The figure of the doctor."""

from pathlib import Path
from typing import Any

from miniclip.data.doctor import Examination
from miniclip.figures import draw_examination
from tests.figures.conftest import is_image, texts_of


def examination(classes: dict[str, int] | None) -> Examination:
    return Examination(
        splits={name: {"classes": classes} for name in ("train", "val", "test")},
        context_length=8,
        broken={"train: a": "it is no image"},
        exact_duplicates=[["train: b", "val: b"], ["train: c", "train: d"]],
        token_lengths={4: 6, 8: 1, 9: 1},
    )


def test_what_must_be_fixed_is_orange_and_counted(drawn: list[Any], tmp_path: Path) -> None:
    assert is_image(draw_examination(examination(None), tmp_path / "doctor.png"))
    tokens, findings = drawn[0].axes
    assert "12.5% are cut off" in texts_of(drawn[0])
    assert [bar.get_width() for bar in findings.patches] == [1, 2, 0, 1]
    blue, _, orange = (bar.get_facecolor() for bar in tokens.patches)
    assert blue != orange


def test_classes_have_an_axis_of_their_own(drawn: list[Any], tmp_path: Path) -> None:
    draw_examination(examination({"dog": 9, "cat": 1}), tmp_path / "doctor.png")
    assert len(drawn[0].axes) == 3 and len(drawn[0].axes[2].lines) == 3
    assert [text.get_text() for text in drawn[0].axes[2].get_legend().texts] == ["train", "val", "test"]
    assert "classes, largest first" in texts_of(drawn[0])
