"""Linear probe and few-shot: logistic regression on frozen image features of all or of a few images."""

import importlib.util
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miniclip.errors import UserError

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

C_VALUES = (1.0, 10.0, 100.0, 1000.0)
"""Inverse regularization, scikit-learn's C, that is tried; features of length 1 need large values."""

SHOTS = (1, 2, 4, 8, 16)
NEEDS_SKLEARN = 'linear_probe and few_shot need scikit-learn: pip install -e ".[evaluation]"'

VALIDATION_FRACTION = 0.2
MAX_ITERATIONS = 300


class LabeledFeatures(NamedTuple):
    """Image features (N, D) float32 and the numbers of their classes (N,)."""

    features: np.ndarray
    labels: np.ndarray

    def at(self, rows: np.ndarray) -> "LabeledFeatures":
        return LabeledFeatures(self.features[rows], self.labels[rows])


class Probe(NamedTuple):
    """Accuracy in percent on the evaluation images, and the C that held-out training images chose."""

    accuracy: float
    C: float


class FewShot(NamedTuple):
    """Accuracies in percent with so many images per class, one for each seed.

    Attributes:
        shots: that were asked for.
        accuracies: one for each seed.
        fewest, most: images that a class gave; where it has fewer than `shots`, all of them.
    """

    shots: int
    accuracies: list[float]
    fewest: int
    most: int

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def std(self) -> float:
        """Standard deviation over the seeds."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else float("nan")


def linear_probe(train: LabeledFeatures, val: LabeledFeatures, *, seed: int = 0) -> Probe:
    """Fit on all training images; C is chosen on a fifth of each class, the fit is then made on all.

    Raises:
        UserError: when scikit-learn is missing, features are not finite, or all images are of one class.
    """
    _check(train, val)
    C = _best_C(*_hold_out(train, seed))
    return Probe(_accuracy(train, val, C=C), C)


def few_shot(
    train: LabeledFeatures,
    val: LabeledFeatures,
    *,
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] = range(5),
) -> list[FewShot]:
    """Fit on a few images per class, drawn anew for each seed; classes with fewer give all they have.

    C is chosen, for each number of shots, on as many other images per class under the first seed; where no
    class has others, on a fifth of each.

    Raises:
        UserError: see `linear_probe`.
    """
    _check(train, val)
    results = []
    for count in shots:
        draws = [_draw(train.labels, count, seed) for seed in seeds]
        drawn, others = draws[0]
        parts = (train.at(drawn), train.at(others)) if len(others) else _hold_out(train, seeds[0])

        C = _best_C(*parts)
        accuracies = [_accuracy(train.at(drawn), val, C=C) for drawn, _ in draws]
        sizes = np.unique(train.labels[drawn], return_counts=True)[1]
        results.append(FewShot(count, accuracies, int(sizes.min()), int(sizes.max())))
    return results


def _draw(labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `count` images of each class, and of as many others where there are."""
    order = np.random.default_rng(seed).permutation(len(labels))
    drawn, others = [], []
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        drawn.append(rows[:count])
        others.append(rows[count : 2 * count])
    return np.concatenate(drawn), np.concatenate(others)


def _hold_out(train: LabeledFeatures, seed: int) -> tuple[LabeledFeatures, LabeledFeatures]:
    """All but a fifth of each class, and that fifth; each class keeps an image at least."""
    order = np.random.default_rng(seed).permutation(len(train.labels))
    kept, held_out = [], []
    for label in np.unique(train.labels):
        rows = order[train.labels[order] == label]
        # each class keeps an image
        count = min(len(rows) - 1, math.ceil(VALIDATION_FRACTION * len(rows)))
        held_out.append(rows[:count])
        kept.append(rows[count:])
    return train.at(np.concatenate(kept)), train.at(np.concatenate(held_out))


def _best_C(train: LabeledFeatures, val: LabeledFeatures) -> float:
    """The C that is most accurate on `val`; the middle one where that is empty."""
    if not len(val.labels):
        return C_VALUES[len(C_VALUES) // 2]
    accuracies = [_accuracy(train, val, C=C) for C in C_VALUES]
    return C_VALUES[int(np.argmax(accuracies))]


def _accuracy(train: LabeledFeatures, val: LabeledFeatures, *, C: float) -> float:
    """Accuracy in percent on `val` of a fit on `train`."""
    return 100 * float(_fit(train, C=C).score(*val))


def _fit(train: LabeledFeatures, *, C: float) -> "LogisticRegression":
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the accuracy hardly moves any more
        warnings.filterwarnings("ignore", "The number of unique classes")  # one image per class is meant
        return LogisticRegression(C=C, max_iter=MAX_ITERATIONS).fit(*train)


def can_probe() -> bool:
    """Whether scikit-learn is installed."""
    return importlib.util.find_spec("sklearn") is not None


def _check(train: LabeledFeatures, val: LabeledFeatures) -> None:
    if not can_probe():
        raise UserError(NEEDS_SKLEARN)
    for part in (train, val):
        if not np.isfinite(part.features).all():
            raise UserError("The image features are not finite: the run's weights are broken.")
    if len(np.unique(train.labels)) < 2:
        raise UserError("Classification needs at least two classes; the training images are all of one.")
