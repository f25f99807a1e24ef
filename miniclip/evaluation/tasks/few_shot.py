"""Few-shot classification: logistic regression on frozen features of a few images per class."""

from collections.abc import Sequence
from typing import Any

from miniclip.errors import SettingError, at_least, counted
from miniclip.evaluation.task import Result, Task, TaskContext, need_classes_in_training, need_probe
from miniclip.metrics import FewShot, few_shot


class FewShotProbe(Task):
    """What a few images per class are enough for.

    Args:
        shots: images per class.
        num_seeds: draws for each number of shots.

    Raises:
        SettingError: when a number is below 1.
    """

    def __init__(self, *, shots: Sequence[int], num_seeds: int):
        if min(shots, default=0) < 1:
            raise SettingError("shots", list(shots), "needs numbers of at least 1")
        at_least("num_seeds", num_seeds, 1)

        self.shots = list(dict.fromkeys(shots))
        self.num_seeds = num_seeds

    def check(self, context: TaskContext) -> None:
        need_classes_in_training("few_shot", context)
        need_probe()

    def run(self, context: TaskContext) -> Result:
        found = few_shot(*context.labeled, shots=self.shots, seeds=range(self.num_seeds))
        return Result(
            {"shots": {str(result.shots): _numbers(result) for result in found}},
            [self._line(result) for result in found],
        )

    def _line(self, result: FewShot) -> str:
        given = f"{result.fewest} to {result.most}" if result.fewest < result.most else f"{result.most}"
        fewer = f" (there are {given})" if result.fewest < result.shots else ""
        draws = counted(self.num_seeds, "draw")
        spread = f"standard deviation {result.std:.1f} over {draws}" if self.num_seeds > 1 else draws
        return f"{result.shots:3} per class{fewer}: top-1 {result.mean:.1f}, {spread}"


def _numbers(result: FewShot) -> dict[str, Any]:
    # files have kept the name "deviation" for the standard deviation
    return {
        "mean": result.mean,
        "deviation": result.std,
        "accuracies": result.accuracies,
        "fewest_of_a_class": result.fewest,
        "most_of_a_class": result.most,
    }
