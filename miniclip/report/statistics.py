"""What may be said of runs that differ in a setting: intervals over seeds, and paired over images."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from miniclip.metrics.image_draws import ImageHits, hits_of_images, recalls_of_draws
from miniclip.report.groups import Group

DRAWS = 2000
"""Samples of the evaluation images that an interval is made of."""


class Spread(NamedTuple):
    """A number over seeds.

    Attributes:
        deviation: standard deviation of the sample; NaN for one seed.
        low, high: 95 % interval of the mean by Student's t; NaN for one seed.
    """

    num_seeds: int
    mean: float
    deviation: float
    low: float
    high: float


class Comparison(NamedTuple):
    """A group beside the control.

    Attributes:
        difference: of mean rsum.
        low, high: 95 % interval over the evaluation images, both groups on the same ones; NaN where
            these differ, or runs kept no ranks.
        noise: half of the difference's 95 % interval over seeds; NaN where a group has one seed.
    """

    difference: float
    low: float
    high: float
    noise: float

    @property
    def remark(self) -> str:
        """What to think of it."""
        if math.isnan(self.noise):
            return "one seed: seeds may differ by more"
        if abs(self.difference) <= self.noise:
            return "within the noise of seeds"
        if not math.isnan(self.low) and self.low <= 0 <= self.high:
            return "within the noise of images"
        return "better" if self.difference > 0 else "worse"


def spread(values: Sequence[float]) -> Spread:
    """Mean, deviation and interval of one number per seed."""
    from scipy.stats import t

    count = len(values)
    mean = float(np.mean(values))
    if count < 2:
        return Spread(count, mean, math.nan, math.nan, math.nan)

    # of a sample, not of all seeds there are
    deviation = float(np.std(values, ddof=1))
    quantile = float(t.ppf(0.975, count - 1))
    half_interval = quantile * deviation / math.sqrt(count)
    return Spread(count, mean, deviation, mean - half_interval, mean + half_interval)


def compare(group: Group, control: Group, *, seed: int = 0) -> Comparison:
    """Difference of rsum, group minus control."""
    of_group = spread(group.values("rsum"))
    of_control = spread(control.values("rsum"))
    low, high = paired_interval(group, control, seed=seed)
    return Comparison(
        difference=of_group.mean - of_control.mean,
        low=low,
        high=high,
        noise=_noise(of_group, of_control),
    )


def _noise(of_group: Spread, of_control: Spread) -> float:
    """Half of the 95 % interval of a difference of means, by Student's t with Welch's degrees (1947)."""
    from scipy.stats import t

    sides = (of_group, of_control)
    if any(side.num_seeds < 2 for side in sides):
        return math.nan

    variances = [side.deviation**2 / side.num_seeds for side in sides]  # of the means
    if not any(variances):
        return 0.0
    parts = [variance**2 / (side.num_seeds - 1) for variance, side in zip(variances, sides, strict=True)]
    degrees = sum(variances) ** 2 / sum(parts)
    return float(t.ppf(0.975, degrees)) * math.sqrt(sum(variances))


def paired_interval(group: Group, control: Group, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the difference of rsum over images drawn with replacement (Efron 1979).

    Each image's hits are averaged over a group's seeds; both groups see the same draws.
    """
    of_group = _hits(group)
    of_control = _hits(control)
    fingerprints = {run.fingerprint for side in (group, control) for run in side.runs}
    if of_group is None or of_control is None or len(fingerprints) > 1:
        return math.nan, math.nan

    # (N, 6) differences of hits, out of the trials of the same images
    differences = of_group.hits - of_control.hits
    recalls = recalls_of_draws(differences, of_group.trials, draws=DRAWS, seed=seed)  # (DRAWS, 6)
    low, high = np.quantile(recalls.sum(axis=1), (0.025, 0.975))
    return float(low), float(high)


def _hits(group: Group) -> ImageHits | None:
    """Hits of a group, the mean over its seeds; None where a run kept no ranks."""
    of_runs = []
    for run in group.runs:
        if run.ranks is None:
            return None
        of_runs.append(hits_of_images(*run.ranks))

    mean = np.mean([of_run.hits for of_run in of_runs], axis=0)  # (N, 6)
    return ImageHits(mean, of_runs[-1].trials)
