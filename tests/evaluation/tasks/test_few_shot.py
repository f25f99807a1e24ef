"""The few-shot task."""

import json

import pytest

from miniclip.errors import SettingError
from miniclip.evaluation import TaskContext
from miniclip.evaluation.tasks import FewShotProbe
from tests.evaluation.conftest import evaluation_of


def test_each_number_of_shots_is_drawn_as_often_as_asked(context: TaskContext) -> None:
    numbers, lines = FewShotProbe(shots=[1, 4], num_seeds=3).run(context)
    assert set(numbers["shots"]) == {"1", "4"} and len(lines) == 2
    for found in numbers["shots"].values():
        assert len(found["accuracies"]) == 3 and found["deviation"] >= 0
        assert found["mean"] == pytest.approx(sum(found["accuracies"]) / 3)


def test_classes_of_fewer_images_are_told(context: TaskContext) -> None:
    numbers, lines = FewShotProbe(shots=[2, 500, 2], num_seeds=1).run(context)
    assert len(lines) == 2 and lines[0].endswith(", 1 draw")
    assert "(there are" not in lines[0] and "500 per class (there are " in lines[1]
    assert numbers["shots"]["2"]["most_of_a_class"] == 2
    assert 2 < numbers["shots"]["500"]["most_of_a_class"] < 500


def test_numbers_that_are_none_are_null_and_stop_nothing(context: TaskContext) -> None:
    settings = ["eval.tasks.few_shot.shots=[1]", "eval.tasks.few_shot.num_seeds=1"]
    evaluation_of("eval=few_shot", *settings).run(context, checkpoint="")
    content = (context.folder / "few_shot.json").read_text()
    found = json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found["shots"]["1"]["deviation"] is None


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(SettingError, match="shots"):
        FewShotProbe(shots=[0, 1], num_seeds=1)
    with pytest.raises(SettingError, match="shots"):
        FewShotProbe(shots=[], num_seeds=1)
    with pytest.raises(SettingError, match="num_seeds"):
        FewShotProbe(shots=[1], num_seeds=0)
