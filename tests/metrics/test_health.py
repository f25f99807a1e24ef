"""Measures of the joint space on features whose answers are known."""

import math

import pytest
import torch

from miniclip.metrics import Features, cosine_counts, health
from miniclip.metrics.health import effective_rank


def paired(images: torch.Tensor, texts: torch.Tensor) -> Features:
    return Features(images, texts, torch.arange(len(images)))


def test_an_orthogonal_model_by_hand() -> None:
    found = health(paired(torch.eye(8), torch.eye(8)))
    assert found.alignment == 0 and found.modality_gap == 0
    assert found.positive_cosine == 1 and found.negative_cosine == 0
    assert found.image_uniformity == pytest.approx(-4)  # exp(-2 * 2) for every pair
    assert found.image_rank == pytest.approx(8)
    assert not found.has_collapsed


def test_a_collapsed_tower_is_noticed() -> None:
    constant = torch.eye(8)[:1].repeat(20, 1)
    spread = torch.nn.functional.normalize(torch.randn(20, 8), dim=1)
    found = health(paired(constant, spread))
    assert found.image_rank == pytest.approx(1) and found.image_uniformity == pytest.approx(0)
    assert found.text_rank > 4
    assert found.has_collapsed


def test_a_small_cloud_has_collapsed_and_two_classes_have_not() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.nn.functional.normalize(torch.randn(500, 256, generator=generator), dim=1)
    cloud = torch.nn.functional.normalize(torch.eye(256)[:1] + 0.1 * noise, dim=1)
    found = health(paired(cloud, noise))
    assert found.image_rank > 10 and found.has_collapsed
    classes = torch.eye(256)[torch.arange(500) % 2]
    assert not health(paired(noise, classes)).has_collapsed


def test_features_that_are_not_finite_have_collapsed() -> None:
    broken, spread = (
        torch.full((20, 8), torch.nan),
        torch.nn.functional.normalize(torch.randn(20, 8), dim=1),
    )
    for pair in (paired(broken, spread), paired(spread, broken)):
        assert health(pair).has_collapsed


@pytest.mark.parametrize("count", [1, 2, 7])
def test_few_pairs_cannot_tell_of_a_collapse(count: int) -> None:
    same = torch.eye(8)[:1].expand(count, -1)
    assert not health(paired(same, same)).has_collapsed
    assert not health(paired(torch.eye(8)[:count], same)).has_collapsed
    assert health(paired(same * torch.nan, same)).has_collapsed


def test_eight_pairs_can_tell_of_a_collapse() -> None:
    same = torch.eye(8)[:1].expand(8, -1)
    assert health(paired(torch.eye(8), same)).has_collapsed
    of_two_classes = torch.eye(8)[[0] * 7 + [1]]
    assert not health(paired(torch.eye(8), of_two_classes)).has_collapsed


def test_the_gap_between_two_cones_is_the_distance_of_their_means() -> None:
    images, texts = torch.tensor([[1.0, 0.0]] * 4), torch.tensor([[0.0, 1.0]] * 4)
    assert health(paired(images, texts)).modality_gap == pytest.approx(math.sqrt(2))


def test_effective_rank_by_hand() -> None:
    # singular values 3 and 1: entropy of 3/4 and 1/4
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(math.exp(entropy))


def test_cosines_are_counted_right_pairs_apart_from_wrong_ones() -> None:
    counts = cosine_counts(paired(torch.eye(6), torch.eye(6)), num_bins=4)
    assert counts["positive"] == [0, 0, 0, 6]
    assert counts["negative"] == [0, 0, 30, 0]
