"""What may be said of runs that differ in a setting: intervals over seeds, and paired over images."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from miniclip.metrics import RECALL_AT
from miniclip.report.runs import Group

DRAWS = 2000


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
        noise: two standard errors of the difference over seeds; NaN where a group has one seed.
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
    """Mean, deviation and interval of one number a seed."""
    from scipy.stats import t

    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return Spread(count, mean, math.nan, math.nan, math.nan)
    deviation = float(np.std(values, ddof=1))
    half = float(t.ppf(0.975, count - 1)) * deviation / math.sqrt(count)
    return Spread(count, mean, deviation, mean - half, mean + half)


def compare(group: Group, control: Group, *, seed: int = 0) -> Comparison:
    """Difference of rsum, group minus control."""
    own, other = (spread(side.values("rsum")) for side in (group, control))
    errors = [side.deviation / math.sqrt(side.num_seeds) for side in (own, other)]
    low, high = paired_interval(group, control, seed=seed)
    return Comparison(own.mean - other.mean, low, high, 2 * math.hypot(*errors))


def paired_interval(group: Group, control: Group, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the difference of rsum over images drawn with replacement (Efron 1979).

    Each image's hits are averaged over a group's seeds; both groups see the same draws.
    """
    tables = [_hits(side) for side in (group, control)]
    on_one_set = len({run.fingerprint for side in (group, control) for run in side.runs}) == 1
    if tables[0] is None or tables[1] is None or not on_one_set:
        return math.nan, math.nan
    (hits, sizes), (others, _) = tables[0], tables[1]
    difference = hits - others
    generator = np.random.default_rng(seed)
    count = len(difference)
    samples = np.empty(DRAWS)
    for draw in range(DRAWS):
        weights = np.bincount(generator.integers(count, size=count), minlength=count)
        samples[draw] = (100 * (weights @ difference) / (weights @ sizes)).sum()
    low, high = np.quantile(samples, (0.025, 0.975))
    return float(low), float(high)


def _hits(group: Group) -> tuple[np.ndarray, np.ndarray] | None:
    """For each image its hits in the six recalls, the mean over seeds, and the captions they are out of."""
    tables = []
    sizes = np.empty(0)
    for run in group.runs:
        if run.ranks is None:
            return None
        ranks, owners = run.ranks
        count = len(ranks.image_to_text)
        captions = np.bincount(owners, minlength=count)
        columns = [(ranks.image_to_text < k).numpy().astype(float) for k in RECALL_AT]
        columns += [np.bincount(owners, (ranks.text_to_image < k).numpy(), count) for k in RECALL_AT]
        tables.append(np.stack(columns, axis=1))
        sizes = np.stack([np.ones(count)] * len(RECALL_AT) + [captions] * len(RECALL_AT), axis=1)
    return np.mean(tables, axis=0), sizes
