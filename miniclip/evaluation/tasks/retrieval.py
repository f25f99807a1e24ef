"""Image-text retrieval in both directions, with intervals, chance, and folds of large data sets."""

from typing import Any

from miniclip.evaluation.task import Result, Task, TaskContext
from miniclip.metrics import (
    Features,
    bootstrap,
    chance_metrics,
    fold_metrics,
    metrics_of_ranks,
    recall_line,
    recall_table,
    retrieval_ranks,
)

FOLD_SIZES = (1000, 5000)
"""Images per fold, where there are enough for two: papers on COCO report 1K and 5K."""


class Retrieval(Task):
    """Recalls at 1, 5 and 10, median ranks and rsum; suits every data set."""

    def check(self, context: TaskContext) -> None:
        """Nothing can be wrong."""

    def run(self, context: TaskContext) -> Result:
        features = context.features
        ranks = retrieval_ranks(*features)  # where the features lie: on the device of the model

        metrics = metrics_of_ranks(ranks)
        intervals = bootstrap(ranks, features.image_of_caption)
        chance = chance_metrics(features.image_of_caption)
        folds = _folds(features)

        numbers: dict[str, Any] = {
            "metrics": metrics,
            "intervals_95": {name: list(interval) for name, interval in intervals.items()},
            "chance": chance,
            "folds": folds,
        }

        low, high = intervals["rsum"]
        lines = [
            *recall_table(metrics, intervals=intervals),
            f"rsum {metrics['rsum']:.1f} ({low:.1f} to {high:.1f}); chance {chance['rsum']:.1f}. "
            "In brackets: 95 % over images.",
            *(_fold_line(fold) for fold in folds),
        ]
        return Result(numbers, lines)


def _folds(features: Features) -> list[dict[str, Any]]:
    """Mean metrics over folds of each size of which there are two at least."""
    found = []
    for size in FOLD_SIZES:
        # one fold alone would be the first images of the set, and no mean
        if len(features.images) >= 2 * size:
            metrics, count = fold_metrics(*features, fold_size=size)
            found.append({"images": size, "count": count, "metrics": metrics})
    return found


def _fold_line(fold: dict[str, Any]) -> str:
    recalls = recall_line(fold["metrics"], between=", ")
    return f"mean of {fold['count']} folds of {fold['images']:,} images, R@1/5/10: {recalls}"
