"""Linear probe: logistic regression on the frozen features of all training images."""

import numpy as np

from miniclip.errors import counted
from miniclip.evaluation.task import Result, Task, TaskContext, need_classes_in_training, need_probe
from miniclip.metrics import linear_probe


class LinearProbe(Task):
    """What frozen image features know of the classes."""

    def check(self, context: TaskContext) -> None:
        need_classes_in_training("linear_probe", context)
        need_probe()

    def run(self, context: TaskContext) -> Result:
        train, val = context.labeled
        probe = linear_probe(train, val)

        # percent of the images that one answer to all of them gets right
        most_common = 100 * np.bincount(val.labels).max() / len(val.labels)

        # files have kept the name "strength" for C
        numbers = {
            "accuracy": probe.accuracy,
            "strength": probe.C,
            "train_images": len(train.labels),
            "most_common_class": most_common,
        }

        images = counted(len(train.labels), "training image")
        line = (
            f"top-1 {probe.accuracy:.1f} with C = {probe.C:g} on {images}; "
            f"always the most common class: {most_common:.1f}"
        )
        return Result(numbers, [line])
