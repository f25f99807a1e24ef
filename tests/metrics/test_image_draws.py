"""Intervals over the images: against a known truth, and by hand."""

import math

import pytest
import torch

from miniclip.metrics.image_draws import bootstrap
from miniclip.metrics.retrieval import Ranks


def test_bootstrap_intervals_cover_a_known_truth() -> None:
    """Hits of 300 images are drawn with probability 0.6: the interval holds 60 in 95 of 100 cases."""
    owners = torch.arange(300).repeat_interleave(2)
    covered = 0
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        misses = [(torch.rand(n, generator=generator) >= 0.6).long() * 50 for n in (300, 600)]
        low, high = bootstrap(Ranks(*misses), owners, draws=200, seed=seed)["i2t_r1"]
        assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.24 / 300) * 100, rel=0.3)
        covered += low <= 60 <= high
    assert 88 <= covered <= 100


def test_captions_of_an_image_are_drawn_together() -> None:
    """By hand: five captions that hit or miss together are as uncertain as one."""
    hit = (torch.arange(200) % 2 * 50).long()
    owners = torch.arange(200).repeat_interleave(5)
    intervals = bootstrap(Ranks(hit, hit.repeat_interleave(5)), owners)
    assert intervals["t2i_r1"] == pytest.approx(intervals["i2t_r1"])
    low, high = intervals["rsum"]
    assert (low, high) == pytest.approx([6 * x for x in intervals["i2t_r1"]])
