"""Intervals beside SciPy's and by hand, and what is said of a difference."""

import math

import numpy as np
import pytest

from miniclip.report.groups import Group
from miniclip.report.statistics import compare, paired_interval, spread
from tests.report.conftest import run_of

stats = pytest.importorskip("scipy.stats", reason="needs the extra report")


def test_spread_is_scipys_interval_of_the_mean() -> None:
    values = [301.0, 318.5, 295.2, 310.0]
    found = spread(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.deviation == pytest.approx(np.std(values, ddof=1))
    assert math.isnan(spread([1.0]).low)


def test_what_is_said_of_a_difference() -> None:
    def group(rho: float, *values: float, hits: float = 0.5) -> Group:
        runs = [run_of(rho, seed, value, hits=hits) for seed, value in enumerate(values)]
        return Group(f"rho={rho}", {"optimizer.rho": rho}, runs)

    control = group(0, 300, 302, 298)
    assert compare(group(0.05, 340, 342, 338, hits=0.9), control).remark == "better"
    assert compare(group(0.05, 260, 262, 258, hits=0.1), control).remark == "worse"
    assert compare(group(0.05, 301, 303, 299), control).remark == "within the noise of seeds"
    assert compare(group(0.05, 340), control).remark == "one seed: seeds may differ by more"
    same = compare(group(0.05, 310, 312, 308), control)  # the same hits on the same images
    assert (same.low, same.high) == (0, 0) and same.remark == "within the noise of images"


def test_the_noise_of_seeds_is_scipys_interval_of_two_means() -> None:
    values, others = [310.0, 318.5, 304.2], [301.0, 303.0]
    groups = [
        Group(name, {}, [run_of(0, seed, value) for seed, value in enumerate(side)])
        for name, side in (("a", values), ("b", others))
    ]
    low, high = stats.ttest_ind(values, others, equal_var=False).confidence_interval(0.95)
    found = compare(*groups)
    assert (found.difference - found.noise, found.difference + found.noise) == pytest.approx((low, high))
    # two standard errors would call it a difference
    assert found.remark == "within the noise of seeds"
    assert found.difference > 2 * math.sqrt(np.var(values, ddof=1) / 3 + np.var(others, ddof=1) / 2)


def test_the_paired_interval_is_that_of_the_mean_difference() -> None:
    """By hand: differences of one image have a known deviation, and pairing keeps what both share out."""
    own, other = run_of(0.1, 0, 300, hits=0.8), run_of(0.0, 0, 300, hits=0.5)
    assert own.ranks is not None and other.ranks is not None
    hits = [(run.ranks[0].image_to_text == 0).double().numpy() for run in (own, other) if run.ranks]
    difference = 600 * (hits[0] - hits[1])
    low, high = paired_interval(Group("a", {}, [own]), Group("b", {}, [other]))
    half = 1.96 * difference.std() / math.sqrt(200)
    assert low == pytest.approx(difference.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(difference.mean() + half, abs=0.15 * half)
