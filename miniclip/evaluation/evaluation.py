"""Measuring trained models: what `miniclip evaluate` and `python run.py eval=...` do.

All features are float32 and, but for the loss surface, of evaluation mode.
"""

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from miniclip.data import ImageTextDataset
from miniclip.data.loader import EpochBatches, Loader
from miniclip.errors import SettingError, UserError, counted
from miniclip.evaluation.models import EmbeddingModel, MiniCLIPModel
from miniclip.figures.figures import (
    draw_confusion,
    draw_cosines,
    draw_landscape,
    draw_retrieval,
    draw_similarity,
    draw_space,
)
from miniclip.metrics import (
    Classification,
    Features,
    LabeledFeatures,
    LossSurface,
    bootstrap,
    chance_metrics,
    check_class_names,
    class_embeddings,
    classify,
    cosine_counts,
    few_shot,
    fold_metrics,
    health,
    landscape,
    linear_probe,
    m_sharpness,
    metrics_of_ranks,
    protocol_name,
    read_class_names,
    read_templates,
    retrieval_ranks,
    top_eigenvalue,
)
from miniclip.metrics.linear_probe import NEEDS_SKLEARN, can_probe
from miniclip.metrics.retrieval import RECALL_AT, caption_owners
from miniclip.models import inputs_of
from miniclip.runs import write_text

log = logging.getLogger(__name__)

Task = Literal["retrieval", "zero_shot", "linear_probe", "few_shot", "health", "pictures", "sharpness"]
TASKS: tuple[Task, ...] = (
    "retrieval",
    "zero_shot",
    "linear_probe",
    "few_shot",
    "health",
    "pictures",
    "sharpness",
)
NEED_CLASSES = ("zero_shot", "linear_probe", "few_shot")
NEED_TRAINING = ("linear_probe", "few_shot")

FOLD_SIZES = (1000, 5000)
"""Images a fold, where there are enough for two: papers on COCO report 1K and 5K."""


class Result(NamedTuple):
    """What a task found.

    Attributes:
        numbers: plain data for its JSON file.
        lines: what a person reads.
    """

    numbers: dict[str, Any]
    lines: list[str]


class Evaluation:
    """Tasks, and how they are done.

    Args:
        tasks: names of `TASKS`; null is all that suit the data but sharpness, which takes longest.
        templates: sentences for class names: "none", "simple", "clip", or a text file with {} in each line.
        class_names: a text file with a name for each class, in the order of the sorted labels; null takes
            the data set's own.
        shots: images a class for few_shot.
        num_seeds: draws for each number of shots.
        radii: lengths rho at which sharpness is measured.
        batches: training batches that sharpness looks at.
        batch_size: images of each of these, the m of m-sharpness.

    Raises:
        SettingError: when a task is unknown or a number out of range.
    """

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None,
        templates: str,
        class_names: str | None,
        shots: Sequence[int],
        num_seeds: int,
        radii: Sequence[float],
        batches: int,
        batch_size: int,
    ):
        for task in tasks or ():
            if task not in TASKS:
                raise SettingError("tasks", task, f"must be of {', '.join(TASKS)}")
        for setting, value, least in (
            ("shots", min(shots, default=0), 1),
            ("num_seeds", num_seeds, 1),
            ("batches", batches, 1),
            ("batch_size", batch_size, 2),
        ):
            if value < least:
                raise SettingError(setting, value, f"must be at least {least}")
        if not min(radii, default=0) > 0:
            raise SettingError("radii", list(radii), "must be above 0")
        read_templates(templates)
        self.tasks = tasks
        self.templates = templates
        self.class_names = class_names
        self.shots = shots
        self.num_seeds = num_seeds
        self.radii = radii
        self.batches = batches
        self.batch_size = batch_size

    def check(self, train: ImageTextDataset, val: ImageTextDataset) -> Sequence[str]:
        """The tasks to do on a data set.

        Raises:
            UserError: when one of them needs a package that is missing, two classes, or more images.
        """
        labels = {*(train.split.labels or ()), *(val.split.labels or ())}
        has_classes = train.split.labels is not None and val.split.labels is not None
        if self.tasks is None:
            tasks: Sequence[str] = [task for task in TASKS[:-1] if has_classes or task not in NEED_CLASSES]
            if has_classes and not can_probe():
                log.warning("Left out: %s", NEEDS_SKLEARN)
            if not can_probe() or len(train) == 0:
                tasks = [task for task in tasks if task not in NEED_TRAINING]
        else:
            tasks = self.tasks
        for task in tasks:
            if task in (*NEED_TRAINING, "sharpness") and len(train) == 0:
                raise UserError(
                    f"{task} needs training images, and data.use=all measures every image. Leave it out, "
                    "or take data.use=parts."
                )
            if task in NEED_TRAINING and not can_probe():
                raise UserError(NEEDS_SKLEARN)
            if task in NEED_CLASSES and not has_classes:
                raise UserError(
                    f"{task} needs classes, the data set has none. Name a column (data.class_column=...), "
                    "or take a set of classes (data=imagefolder data.root=...)."
                )
            if task in NEED_CLASSES and len(labels) < 2:
                raise UserError(f"{task} needs two classes; all images are of {labels.pop()!r}.")
            if task == "zero_shot":
                check_class_names(self.names_of(sorted(labels)))
            if task == "sharpness" and self.batches > len(train) // self.batch_size:
                raise UserError(
                    f"eval.batches={self.batches} of eval.batch_size={self.batch_size} must fit into the "
                    f"{counted(len(train), 'training image')}."
                )
        return tasks

    def names_of(self, classes: Sequence[str]) -> Sequence[str]:
        """What templates call the classes, given sorted: the file's names, or the data set's."""
        if self.class_names is not None:
            return read_class_names(self.class_names, classes)
        return [name.replace("_", " ") for name in classes]

    def at_each_validation(
        self, subject: EmbeddingModel, train: ImageTextDataset, val: ImageTextDataset
    ) -> list[Callable[[Features], dict[str, float]]]:
        """What of the tasks is cheap enough for every validation: zero_shot's numbers.

        Args:
            subject: the model in training, as it will be then.
        """
        if "zero_shot" not in self.check(train, val):
            return []

        def zero_shot(features: Features) -> dict[str, float]:
            keys = ("top1", "top5", "mean_per_class")
            if not all(part.isfinite().all() for part in features[:2]):  # training says so, and goes on
                return {f"val/zero_shot_{key}": math.nan for key in keys}
            measured = TaskContext(self, subject, train, val, folder=Path(), loss=None, seed=0)
            found, _ = measured.classified(features.images)
            return {f"val/zero_shot_{key}": getattr(found, key) for key in keys}

        return [zero_shot]

    def run(
        self,
        subject: EmbeddingModel,
        datasets: tuple[ImageTextDataset, ImageTextDataset],
        folder: Path,
        *,
        checkpoint: str,
        loss: Callable[..., Tensor] | None = None,
        seed: int = 0,
    ) -> dict[str, Result]:
        """Do the tasks; each writes `folder`/TASK.json, and its pictures beside.

        Args:
            datasets: for training and for validation; the second is what is measured on.
            checkpoint: what a reader can load the model from, for the files.
            loss: the training loss, needed by sharpness.
            seed: of the order of the training batches that sharpness looks at.

        Raises:
            UserError: when a task does not suit the data or the model.
        """
        measured = TaskContext(self, subject, *datasets, folder=folder, loss=loss, seed=seed)
        tasks = self.check(*datasets)
        if tasks:
            folder.mkdir(parents=True, exist_ok=True)
        results = {}
        for task in tasks:
            result: Result = getattr(measured, task)()
            numbers = {
                "checkpoint": checkpoint,
                "protocol": measured.protocol,
                "data_fingerprint": datasets[1].split.fingerprint(),
                **result.numbers,
            }
            # JSON has no NaN
            finite = json.loads(json.dumps(numbers), parse_constant=lambda name: None)
            write_text(folder / f"{task}.json", json.dumps(finite, indent=2) + "\n")
            results[task] = Result(numbers, result.lines)
        return results


class TaskContext:
    """One model on one data set; a method for each task. Features are computed once."""

    def __init__(
        self,
        settings: Evaluation,
        subject: EmbeddingModel,
        train: ImageTextDataset,
        val: ImageTextDataset,
        *,
        folder: Path,
        loss: Callable[..., Tensor] | None,
        seed: int,
    ):
        self.settings = settings
        self.subject = subject
        self.train = train
        self.val = val
        self.folder = folder
        self.loss = loss
        self.seed = seed

    @property
    def protocol(self) -> str:
        """What the numbers were measured on."""
        split = self.val.split
        return protocol_name(split.name, len(split), int(split.captions.counts.sum())) + "; float32"

    @cached_property
    def features(self) -> Features:
        texts, owners = caption_owners(self.val.split.captions)
        text_features = _finite(self.subject.encode_texts(texts), self.subject)
        return Features(self.image_features, text_features, owners.to(text_features.device))

    @cached_property
    def image_features(self) -> Tensor:
        return _finite(self.subject.encode_images(self.val), self.subject)

    @cached_property
    def classes(self) -> list[str]:
        """Labels of both sides, sorted."""
        return sorted({*(self.train.split.labels or ()), *(self.val.split.labels or ())})

    def labels(self, dataset: ImageTextDataset) -> np.ndarray:
        """Number of the class of each image."""
        numbers = {name: number for number, name in enumerate(self.classes)}
        return np.array([numbers[label] for label in dataset.split.labels or ()])

    @cached_property
    def labelled(self) -> tuple[LabeledFeatures, LabeledFeatures]:
        """Training and validation images, both as evaluation sees them."""
        labels = self.labels(self.train), self.labels(self.val)
        as_evaluated = ImageTextDataset.for_evaluation(self.train.split, self.val.crop)
        train_features = _finite(self.subject.encode_images(as_evaluated), self.subject)
        both = train_features, self.image_features
        return tuple(LabeledFeatures(x.cpu().numpy(), y) for x, y in zip(both, labels, strict=True))  # type: ignore[return-value]

    def retrieval(self) -> Result:
        features = self.features
        device = self.subject.device
        ranks = retrieval_ranks(*features, device=device)
        metrics = metrics_of_ranks(ranks)
        intervals = bootstrap(ranks, features.image_of_caption)
        chance = chance_metrics(features.image_of_caption)
        numbers: dict[str, Any] = {
            "metrics": metrics,
            "intervals_95": {name: list(interval) for name, interval in intervals.items()},
            "chance": chance,
        }
        lines = [f"{'':15}{'R@1':>22}{'R@5':>22}{'R@10':>22}{'median rank':>13}"]
        for way, title in (("i2t", "image to text"), ("t2i", "text to image")):
            cells = []
            for k in RECALL_AT:
                low, high = intervals[f"{way}_r{k}"]
                cells.append(f"{metrics[f'{way}_r{k}']:.1f} ({low:.1f} to {high:.1f})")
            median = f"{metrics[f'{way}_median_rank']:g}"
            lines.append(f"{title:15}" + "".join(f"{cell:>22}" for cell in cells) + f"{median:>13}")
        low, high = intervals["rsum"]
        lines.append(
            f"rsum {metrics['rsum']:.1f} ({low:.1f} to {high:.1f}); chance {chance['rsum']:.1f}. "
            "In brackets: 95 % over images."
        )
        numbers["folds"] = []
        for size in FOLD_SIZES:
            if len(features.images) < 2 * size:
                continue
            folds, count = fold_metrics(*features, fold_size=size)
            numbers["folds"].append({"images": size, "count": count, "metrics": folds})
            ways = ["/".join(f"{folds[f'{way}_r{k}']:.1f}" for k in RECALL_AT) for way in ("i2t", "t2i")]
            lines.append(
                f"mean of {count} folds of {size:,} images, R@1/5/10: image to text {ways[0]}, "
                f"text to image {ways[1]}, rsum {folds['rsum']:.1f}"
            )
        return Result(numbers, lines)

    def classified(self, image_features: Tensor) -> tuple[Classification, Sequence[str]]:
        """The validation images by their nearest class, and the names of the classes."""
        names = self.settings.names_of(self.classes)
        templates = read_templates(self.settings.templates)
        embeddings = class_embeddings(self.subject.encode_texts, names, templates)
        labels = torch.from_numpy(self.labels(self.val)).to(embeddings.device)
        return classify(image_features, embeddings, labels), names

    def zero_shot(self) -> Result:
        found, names = self.classified(self.image_features)
        draw_confusion(
            found.confusion, names, self.folder / "zero_shot.png", protocol=f"zero-shot, {self.protocol}"
        )
        numbers = {
            "classes": len(names),
            "templates": self.settings.templates,
            **{key: getattr(found, key) for key in ("top1", "top5", "mean_per_class", "chance")},
        }
        return Result(
            numbers,
            [
                f"{len(names)} classes, templates {self.settings.templates}: top-1 {found.top1:.1f}, "
                f"top-5 {found.top5:.1f}, mean per class {found.mean_per_class:.1f}; "
                f"chance {found.chance:.1f}"
            ],
        )

    def linear_probe(self) -> Result:
        train, val = self.labelled
        probe = linear_probe(train, val)
        most_common = 100 * np.bincount(val.labels).max() / len(val.labels)
        return Result(
            {**probe._asdict(), "train_images": len(train.labels), "most_common_class": most_common},
            [
                f"top-1 {probe.accuracy:.1f} with C = {probe.strength:g} on "
                f"{counted(len(train.labels), 'training image')}; "
                f"always the most common class: {most_common:.1f}"
            ],
        )

    def few_shot(self) -> Result:
        seeds = range(self.settings.num_seeds)
        results = few_shot(*self.labelled, shots=self.settings.shots, seeds=seeds)
        return Result(
            {
                "shots": {
                    str(r.shots): {"mean": r.mean, "deviation": r.deviation, "accuracies": r.accuracies}
                    for r in results
                }
            },
            [
                f"{r.shots:3} a class: top-1 {r.mean:.1f}, deviation {r.deviation:.1f} over "
                f"{counted(len(seeds), 'draw')}"
                for r in results
            ],
        )

    def health(self) -> Result:
        found = health(self.features)
        counts = cosine_counts(self.features)
        draw_cosines(counts, self.folder / "health.png", protocol=self.protocol)
        lines = [f"{name.replace('_', ' '):20} {value:10.3f}" for name, value in found._asdict().items()]
        if found.has_collapsed:
            lines.append("COLLAPSED: a tower gives nearly the same features to everything.")
        return Result({**found._asdict(), "collapsed": found.has_collapsed, "cosines": counts}, lines)

    def pictures(self) -> Result:
        split = self.val.split
        draw_retrieval(self.features, split, self.folder / "retrieval.png", protocol=self.protocol)
        draw_similarity(self.features, split, self.folder / "similarity.png", protocol=self.protocol)
        draw_space(self.features, self.folder / "space.png", protocol=self.protocol)
        names = ["retrieval.png", "similarity.png", "space.png"]
        return Result({"pictures": names}, [", ".join(names)])

    def sharpness(self) -> Result:
        if not isinstance(self.subject, MiniCLIPModel) or self.loss is None:
            raise UserError(f"sharpness is measured on MiniCLIP's runs, not on {self.subject.name}.")
        size, count = self.settings.batch_size, self.settings.batches
        order = EpochBatches(len(self.train), batch_size=size, seed=self.seed)
        loader = Loader(self.train, order, device=self.subject.device, num_workers=0)
        batches = [inputs_of(batch, self.subject.tokenizer) for batch in islice(loader, count)]
        surface = LossSurface(self.subject.model, self.loss, batches)
        rises = {f"{radius:g}": m_sharpness(surface, radius) for radius in self.settings.radii}
        at, curvature = surface.mean_loss(), top_eigenvalue(surface)
        slices = landscape(surface, radius=max(self.settings.radii))
        protocol = f"train: {count} x {size} images, float32, batch statistics"
        draw_landscape(slices, self.folder / "sharpness.png", protocol=protocol)
        lines = [
            f"loss at the weights     {at:12.4f}",
            *(f"m-sharpness, rho {radius:6} {rise:12.4f}" for radius, rise in rises.items()),
            f"top Hessian eigenvalue  {curvature:12.4f}",
        ]
        numbers = {
            "protocol": protocol,
            "data_fingerprint": self.train.split.fingerprint(),
            "loss": at,
            "m_sharpness": rises,
            "top_eigenvalue": curvature,
            "landscape": slices._asdict(),
        }
        return Result(numbers, lines)


def flat_numbers(results: dict[str, Result]) -> dict[str, float | str]:
    """The numbers of results and what names them, for loggers: {"eval/zero_shot/top1": 12.5}."""
    return {
        f"eval/{task}/{key}": value
        for task, result in results.items()
        for key, value in _leaves(result.numbers)
    }


def _leaves(numbers: dict[str, Any]) -> Iterator[tuple[str, float | str]]:
    """Numbers and names, also those inside; metrics without the word before them, no lists."""
    for key, value in numbers.items():
        if isinstance(value, dict):
            for inner, leaf in _leaves(value):
                yield (inner if key == "metrics" else f"{key}/{inner}"), leaf
        elif isinstance(value, int | float | str):
            yield key, value


def comparison(results: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """A table of retrieval results, a row a model, below a row of chance.

    Args:
        results: names, and what `retrieval` found of each, all on the same data.
    """
    data = {own["data_fingerprint"]: own["protocol"] for _, own in results}
    if len(data) > 1:
        told = "; ".join(f"{protocol} ({fingerprint})" for fingerprint, protocol in data.items())
        return [f"No table: the models were measured on different data, {told}. Name one: data=..."]
    rows = [("chance", results[0][1]["chance"]), *((name, own["metrics"]) for name, own in results)]
    width = max(len(name) for name, _ in rows)
    lines = [*data.values(), f"{'':{width}}  image to text R@1/5/10  text to image R@1/5/10    rsum"]
    for name, metrics in rows:
        cells = ["/".join(f"{metrics[f'{way}_r{k}']:.1f}" for k in RECALL_AT) for way in ("i2t", "t2i")]
        lines.append(f"{name:{width}}  {cells[0]:>22}  {cells[1]:>22}  {metrics['rsum']:6.1f}")
    return lines


def _finite(features: Tensor, subject: EmbeddingModel) -> Tensor:
    if not features.isfinite().all():
        raise UserError(f"The features of {subject.name} are not finite: its weights are broken.")
    return features
