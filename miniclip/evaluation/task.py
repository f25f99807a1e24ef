"""Protocol of an evaluation task: its settings in the constructor, a check, a run, and what it is given."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from miniclip.data import ImageTextDataset
from miniclip.data.dataset import without_broken
from miniclip.errors import UserError
from miniclip.evaluation.models import DatasetEncoder
from miniclip.metrics import Features, LabeledFeatures, protocol_name
from miniclip.metrics.linear_probe import NEEDS_SKLEARN, can_probe
from miniclip.metrics.retrieval import caption_owners


class Unsuited(UserError):
    """A task cannot be done on this data; `eval=standard` leaves it out.

    Attributes:
        is_news: whether that is told; that images have no classes is known.
    """

    is_news: ClassVar[bool] = False


class MissingPackage(Unsuited):
    """A task needs a package that is not installed."""

    is_news: ClassVar[bool] = True


class OneClass(Unsuited):
    """A task needs two classes, and there is one."""

    is_news: ClassVar[bool] = True


class Result(NamedTuple):
    """What a task found.

    Attributes:
        numbers: plain data for its JSON file.
        lines: what a person reads.
    """

    numbers: dict[str, Any]
    lines: list[str]


class TaskContext:
    """One model on one data set, which all tasks share: features are computed once.

    Args:
        model: what is measured.
        train: training data set; may be empty.
        val: data set that is measured on.
        folder: where tasks put their figures.
        loss: training loss; None for models that are not MiniCLIP's.
        optimizer: settings of the optimizer in the run's config; none for models that are no run's.
        seed: of the order of training batches.
    """

    def __init__(
        self,
        model: DatasetEncoder,
        train: ImageTextDataset,
        val: ImageTextDataset,
        *,
        folder: Path,
        loss: Callable[..., Tensor] | None = None,
        optimizer: dict[str, Any] | None = None,
        seed: int = 0,
    ):
        self.model = model
        self.train = train
        self.val = val
        self.folder = folder
        self.loss = loss
        self.optimizer = optimizer or {}
        self.seed = seed

    @property
    def protocol(self) -> str:
        """What the numbers were measured on."""
        split = self.val.split
        num_captions = int(split.captions.counts.sum())
        return f"{protocol_name(split.name, len(split), num_captions)}; {self.model.precision}"

    @cached_property
    def image_features(self) -> Tensor:
        """Features of the validation images, (N, D) of length 1."""
        return _finite(self.model.encode_dataset(self.val), self.model)

    @cached_property
    def features(self) -> Features:
        """Features of the validation images and of all their captions."""
        texts, owners = caption_owners(self.val.split.captions)  # M captions, and of each the image (M,)
        text_features = _finite(self.model.encode_text(texts), self.model)  # (M, D)

        return Features(self.image_features, text_features, owners.to(text_features.device))

    @cached_property
    def labeled(self) -> tuple[LabeledFeatures, LabeledFeatures]:
        """Training and validation images with their classes, both as evaluation sees them.

        Training images that cannot be read are left out, where training let others stand in for them.

        Raises:
            UserError: when more than `data.max_broken_fraction` of them cannot be read.
        """
        # without the random crops of training
        as_evaluated = ImageTextDataset.for_evaluation(self.train.split, self.val.crop)
        try:
            train_features = self.model.encode_dataset(as_evaluated)  # (N, D)
        except UserError:  # of an image that a worker could not read, say
            if self.train.max_broken_fraction is None:
                raise
            most = self.train.max_broken_fraction
            as_evaluated = without_broken(as_evaluated, max_broken_fraction=most)
            train_features = self.model.encode_dataset(as_evaluated)
        train_features = _finite(train_features, self.model)

        # scikit-learn computes on the host
        return (
            LabeledFeatures(train_features.cpu().numpy(), self.labels(as_evaluated)),
            LabeledFeatures(self.image_features.cpu().numpy(), self.labels(self.val)),
        )

    @cached_property
    def classes(self) -> list[str]:
        """Labels of both data sets, sorted: by their numbers, where all are whole numbers."""
        labels = {*(self.train.split.labels or ()), *(self.val.split.labels or ())}
        are_numbers = all(label.isdecimal() for label in labels)
        return sorted(labels, key=lambda label: (int(label) if are_numbers else 0, label))

    def labels(self, dataset: ImageTextDataset) -> np.ndarray:
        """Number of the class of each image, (N,) int64."""
        # of both data sets together: one of them may lack a class
        numbers = {name: number for number, name in enumerate(self.classes)}
        return np.array([numbers[label] for label in dataset.split.labels or ()], dtype=np.int64)


class Task(ABC):
    """Something to measure on a trained model. Its settings are the arguments of its constructor."""

    @abstractmethod
    def check(self, context: TaskContext) -> None:
        """Refuse data and models that do not suit, before any work is done.

        Raises:
            Unsuited: when the data lack what the task needs.
            UserError: when a setting does not go with the data.
        """

    @abstractmethod
    def run(self, context: TaskContext) -> Result:
        """Measure, and put figures into the context's folder."""

    def at_each_validation(self, context: TaskContext, features: Features) -> dict[str, float]:
        """Measure what is cheap enough for every validation of a training run; by default nothing.

        Args:
            features: of the validation images and captions, by the model as it is then.
        """
        return {}


def need_training_images(name: str, context: TaskContext) -> None:
    """Raise `Unsuited` where there are no training images, or they pass once."""
    if context.train.is_streamed:
        raise Unsuited(f"{name} reads training images again, and data.streaming=true keeps none.")
    if len(context.train) == 0:
        raise Unsuited(
            f"{name} needs training images, and data.use=all measures every image. Leave it out, "
            "or take data.use=parts."
        )


def need_classes(name: str, context: TaskContext) -> None:
    """Raise `Unsuited` where images have no classes, `OneClass` where all are of one."""
    if context.train.split.labels is None or context.val.split.labels is None:
        raise Unsuited(
            f"{name} needs classes, the data set has none. Name a column (data.class_column=...), "
            "or take a set of classes (data=imagefolder data.root=...)."
        )
    _need_two(name, context.classes, "images")


def need_classes_in_training(name: str, context: TaskContext) -> None:
    """The same for a task that learns from training images, which must have two classes themselves."""
    need_classes(name, context)
    need_training_images(name, context)
    _need_two(name, sorted(set(context.train.split.labels or ())), "training images")


def _need_two(name: str, classes: Sequence[str], whose: str) -> None:
    if len(classes) < 2:
        raise OneClass(
            f"{name} needs two classes; all {whose} are of {classes[0]!r}. Take images of more classes "
            "(data.root=...), another data.class_column, or other tasks."
        )


def need_probe() -> None:
    """Raise `MissingPackage` where scikit-learn is not installed."""
    if not can_probe():
        raise MissingPackage(NEEDS_SKLEARN)


def _finite(features: Tensor, model: DatasetEncoder) -> Tensor:
    # waits for the device, once for all features of a data set
    if not bool(torch.isfinite(features).all()):
        raise UserError(f"The features of {model.name} are not finite: its weights are broken.")
    return features
