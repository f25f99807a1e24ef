"""Zero-shot classification by the names of the classes."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from miniclip.data.sources.walk import examples
from miniclip.errors import SettingError, counted
from miniclip.evaluation.task import Result, Task, TaskContext, need_classes
from miniclip.figures import draw_confusion
from miniclip.metrics import (
    TEMPLATES,
    Classification,
    Features,
    check_class_names,
    class_embeddings,
    classify,
)

log = logging.getLogger(__name__)

MEASURES = ("top1", "top5", "mean_per_class")


class ZeroShot(Task):
    """Give each image the class whose name, in sentences, lies nearest.

    Files are read once, so that a change of one during a training run changes no measure of it.

    Args:
        templates: sentences for class names: "none", "simple", "clip", or a text file with {} in each line.
        class_names: a text file with a name for each class, in the order of the sorted labels, numbers by
            their size; null takes the data set's own.

    Raises:
        SettingError: when there are no such templates, or no such file.
    """

    def __init__(self, *, templates: str, class_names: str | None):
        self.templates = templates
        self.sentences = read_templates(templates)
        self.class_names = class_names
        self.names = None if class_names is None else read_class_names(class_names)

    def check(self, context: TaskContext) -> None:
        need_classes("zero_shot", context)
        names = self._names(context.classes)
        check_class_names(names)
        if self.class_names is not None:
            pairs = [f"{label} is {name}" for label, name in zip(context.classes, names, strict=True)]
            log.info("class_names: %s", examples(pairs))

    def run(self, context: TaskContext) -> Result:
        found = self._classify(context, context.image_features)
        names = self._names(context.classes)

        protocol = f"zero-shot, {context.protocol}"
        draw_confusion(found.confusion, names, context.folder / "zero_shot.png", protocol=protocol)

        numbers = {
            "classes": len(names),
            "templates": self.templates,
            "class_names": self.class_names,
            **{key: getattr(found, key) for key in (*MEASURES, "chance")},
        }
        named = "" if self.class_names is None else f" named by {self.class_names}"
        line = (
            f"{len(names)} classes{named}, templates {self.templates}: top-1 {found.top1:.1f}, "
            f"top-5 {found.top5:.1f}, mean per class {found.mean_per_class:.1f}; chance {found.chance:.1f}"
        )
        return Result(numbers, [line])

    def at_each_validation(self, context: TaskContext, features: Features) -> dict[str, float]:
        # training says itself that features are not finite, and goes on
        if not (features.images.isfinite().all() and features.texts.isfinite().all()):
            return {f"val/zero_shot_{key}": math.nan for key in MEASURES}

        found = self._classify(context, features.images)
        return {f"val/zero_shot_{key}": getattr(found, key) for key in MEASURES}

    def _names(self, classes: Sequence[str]) -> Sequence[str]:
        """What templates call the classes, given sorted: the file's names, or the data set's.

        Raises:
            SettingError: when the file has another number of names.
        """
        if self.names is None:
            # folders and tables write names of several words with underscores
            return [name.replace("_", " ") for name in classes]
        if len(self.names) != len(classes):
            found = f"has {counted(len(self.names), 'line')} for {len(classes)} classes"
            raise SettingError("class_names", self.class_names, found)
        return self.names

    def _classify(self, context: TaskContext, image_features: Tensor) -> Classification:
        """The class of each validation image by its features (N, D)."""
        # a class is one vector, the mean over all sentences with its name
        names = self._names(context.classes)
        embeddings = class_embeddings(context.model.encode_text, names, self.sentences)  # (C, D)
        labels = torch.from_numpy(context.labels(context.val)).to(embeddings.device)  # (N,)
        return classify(image_features, embeddings, labels)


def read_templates(source: str) -> tuple[str, ...]:
    """A built-in set by its name, or the lines of a file.

    Raises:
        SettingError: when there is neither, or a line holds no {} for the class.
    """
    if source in TEMPLATES:
        return TEMPLATES[source]

    templates = _read_lines("templates", source, f"one of {', '.join(TEMPLATES)}, or a text file")
    for line in templates:
        if line.count("{}") != 1:
            raise SettingError(
                "templates", source, f"needs one {{}} for the class in each line, not: {line}"
            )

    return templates


def read_class_names(path: str) -> tuple[str, ...]:
    """Names for the classes from a file, a line each, in the sorted order of the data set's labels.

    Raises:
        SettingError: when the file is not there, or empty.
    """
    return _read_lines("class_names", path, "a text file")


def _read_lines(setting: str, path: str, known: str) -> tuple[str, ...]:
    """The lines of a text file that are not empty."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(setting, path, f"must be {known} ({error})") from None

    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise SettingError(setting, path, "is an empty file")
    return lines
