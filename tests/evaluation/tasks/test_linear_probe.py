"""The linear probe."""

from miniclip.evaluation import TaskContext
from miniclip.evaluation.tasks import LinearProbe
from miniclip.metrics.linear_probe import C_VALUES


def test_colors_are_not_hard(context: TaskContext) -> None:
    LinearProbe().check(context)
    numbers, (line,) = LinearProbe().run(context)
    assert numbers["accuracy"] > 90 and numbers["train_images"] == 30
    assert numbers["strength"] in C_VALUES and f"C = {numbers['strength']:g}" in line
    assert 100 / 3 <= numbers["most_common_class"] < 60
