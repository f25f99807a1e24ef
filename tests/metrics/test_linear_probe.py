"""Probes of frozen features beside scikit-learn used directly."""

import numpy as np
import pytest

from miniclip.errors import UserError
from miniclip.metrics.linear_probe import (
    C_VALUES,
    MAX_ITERATIONS,
    LabeledFeatures,
    few_shot,
    linear_probe,
)

linear_model = pytest.importorskip("sklearn.linear_model", reason="needs scikit-learn")


def some_classes(count: int, *, seed: int) -> LabeledFeatures:
    """Five overlapping clouds on the unit sphere."""
    centres = np.random.default_rng(0).normal(size=(5, 12))
    generator = np.random.default_rng(seed)
    labels = generator.integers(5, size=count)
    features = centres[labels] + 1.5 * generator.normal(size=(count, 12))
    return LabeledFeatures(
        (features / np.linalg.norm(features, axis=1, keepdims=True)).astype("float32"), labels
    )


def test_a_probe_is_scikit_learns_logistic_regression() -> None:
    train, val = some_classes(400, seed=1), some_classes(300, seed=2)
    probe = linear_probe(train, val)
    direct = linear_model.LogisticRegression(C=probe.C, max_iter=MAX_ITERATIONS).fit(*train)
    assert probe.accuracy == pytest.approx(100 * direct.score(*val))
    assert 40 < probe.accuracy < 100 and probe.C in C_VALUES


def test_c_is_chosen_on_training_images_only() -> None:
    train, val = some_classes(400, seed=1), some_classes(300, seed=2)
    shuffled = LabeledFeatures(val.features, np.random.default_rng(0).permutation(val.labels))
    assert linear_probe(train, val).C == linear_probe(train, shuffled).C


def test_more_shots_know_more() -> None:
    results = few_shot(some_classes(600, seed=1), some_classes(300, seed=2), shots=(1, 16), seeds=range(4))
    one, sixteen = results
    assert len(one.accuracies) == 4 and len(set(one.accuracies)) > 1
    assert sixteen.mean > one.mean + 5 and one.std > 0
    assert one.mean == pytest.approx(np.mean(one.accuracies))


def test_a_few_images_are_enough() -> None:
    """A class of one image is never held out, and more shots than there are take all."""
    few = LabeledFeatures(np.eye(4, dtype="float32"), np.array([0, 0, 0, 1]))
    assert linear_probe(few, few).accuracy >= 75  # the larger class at least
    (sixteen,) = few_shot(few, few, shots=(16,), seeds=range(2))
    assert sixteen.std == 0 and sixteen.mean >= 75
    one_each = LabeledFeatures(np.eye(2, dtype="float32"), np.array([0, 1]))
    assert linear_probe(one_each, one_each).accuracy == 100


def test_what_is_wrong_is_said() -> None:
    good = some_classes(50, seed=1)
    with pytest.raises(UserError, match="at least two classes"):
        linear_probe(LabeledFeatures(good.features, np.zeros(50, dtype=int)), good)
    with pytest.raises(UserError, match="not finite"):
        few_shot(LabeledFeatures(good.features * np.nan, good.labels), good)
