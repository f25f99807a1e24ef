"""Zero-shot classification: the class whose name, in sentences, lies nearest to the image."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from miniclip.errors import UserError
from miniclip.metrics.cosines import cosines_of
from miniclip.metrics.retrieval import TIE

TEMPLATES: dict[str, tuple[str, ...]] = {
    "none": ("{}",),
    "simple": ("a photo of a {}.",),
    # sentences after the fashion of Radford et al. 2021, section 3.1.4, in our own words
    "clip": (
        "a photo of a {}.",
        "a photograph showing the {}.",
        "one {} in a picture.",
        "a blurred photo of a {}.",
        "a sharp photo of a {}.",
        "a dark photo of the {}.",
        "a bright photo of the {}.",
        "a close look at a {}.",
        "a {} seen from far away.",
        "part of a {}.",
        "a small {}.",
        "a large {}.",
        "a {} on a plain background.",
        "a {} among other things.",
        "a drawing of a {}.",
        "a good picture of the {}.",
        "a poor picture of the {}.",
        "a picture of many {}.",
    ),
}


class Classification(NamedTuple):
    """How images were classified.

    Attributes:
        top1, top5: percent of images whose class is the first, among the first five.
        mean_per_class: mean over classes of each one's top1, percent.
        chance: top1 of guessing, percent.
        confusion: (C, C) int64, images of the row's class that were given the column's.
    """

    top1: float
    top5: float
    mean_per_class: float
    chance: float
    confusion: Tensor


def check_class_names(names: Sequence[str]) -> None:
    """Raise a UserError where there are fewer than two classes, or names repeat."""
    if len(names) < 2:
        raise UserError(f"Classification needs at least two classes, not {len(names)}.")
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise UserError(f"Class names must differ; these repeat: {', '.join(repeated[:5])}.")


def class_embeddings(
    encode_text: Callable[[list[str]], Tensor], class_names: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """For each class the mean of its sentences' features, made of length 1 again, (C, D).

    Args:
        encode_text: `list of B captions -> (B, D)`, of length 1.
        class_names: a name each; no two alike.
        templates: sentences with {} in place of the name.

    Raises:
        UserError: see `check_class_names`; when there is no template, or one without {}.
    """
    check_class_names(class_names)
    _check_templates(templates)
    sentences = [template.replace("{}", name) for name in class_names for template in templates]
    features = encode_text(sentences).view(len(class_names), len(templates), -1)  # (C, T, D)
    return F.normalize(features.mean(dim=1), dim=1)


def _check_templates(templates: Sequence[str]) -> None:
    without = [template for template in templates if "{}" not in template]
    if not templates or without:
        found = repr(without[0]) if without else "none at all"
        raise UserError(f"Templates are sentences with {{}} in place of the class's name, not {found}.")


def classify(image_features: Tensor, embeddings: Tensor, labels: Tensor) -> Classification:
    """Give each image the class with the highest cosine.

    Args:
        image_features: (N, D), of length 1.
        embeddings: (C, D), see `class_embeddings`.
        labels: (N,) int64, the right classes.

    Raises:
        UserError: when features are not finite.
    """
    for name, features in (("image", image_features), ("class", embeddings)):
        if not features.isfinite().all():
            raise UserError(f"The {name} features are not finite: the run's weights are broken.")
    scores = cosines_of(image_features, embeddings)  # (N, C)
    return classification(scores, labels)


def classification(scores: Tensor, labels: Tensor) -> Classification:
    """From scores (N, C) and the right classes (N,).

    Ties count against: others of that score, to within `TIE`, go first.
    """
    num_classes = scores.shape[1]
    right = scores.take_along_dim(labels[:, None], dim=1)  # (N, 1)
    # (N, C), so that what is no number counts against as well
    is_ahead = ~(scores < right - TIE)
    rank = is_ahead.sum(dim=1) - is_ahead.take_along_dim(labels[:, None], dim=1).squeeze(1).long()

    # where another class has at least the score of the right one, it is the answer
    others = scores.scatter(1, labels[:, None], -torch.inf)
    answers = torch.where(rank == 0, labels, others.argmax(dim=1))
    pairs = labels * num_classes + answers
    confusion = pairs.bincount(minlength=num_classes**2).view(num_classes, num_classes)
    counts = confusion.sum(dim=1)
    own = confusion.diagonal()[counts > 0] / counts[counts > 0]
    return Classification(
        top1=100 * (rank < 1).double().mean().item(),
        top5=100 * (rank < 5).double().mean().item(),
        mean_per_class=100 * own.double().mean().item(),
        chance=100 / num_classes,
        confusion=confusion.cpu(),
    )
