"""The loss against values worked out by hand."""

import math

import pytest
import torch

from miniclip.losses import ClipLoss


def test_two_pairs_by_hand() -> None:
    # similarity [[1, 0], [0, 1]], scale 1: each row and column is -ln(e / (e + 1))
    features = torch.eye(2)
    loss = ClipLoss()(features, features, torch.tensor(1.0))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)


def test_three_pairs_by_hand_tell_the_directions_apart() -> None:
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
    texts = torch.tensor([[0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])
    scale = 2.0
    rows = [(0.8, 0.0, 0.6), (0.6, 1.0, 0.8), (1.0, 0.6, 0.96)]

    def cross_entropy(table: list[tuple[float, ...]]) -> float:
        terms = []
        for i, row in enumerate(table):
            terms.append(math.log(sum(math.exp(scale * s) for s in row)) - scale * row[i])
        return sum(terms) / 3

    columns = list(zip(*rows, strict=True))
    expected = (cross_entropy(rows) + cross_entropy(columns)) / 2
    loss = ClipLoss()(images, texts, torch.tensor(scale))
    assert cross_entropy(rows) != pytest.approx(cross_entropy(columns), abs=1e-3)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_a_model_that_knows_nothing_pays_ln_of_the_batch() -> None:
    features = torch.ones(8, 4) / 2
    assert ClipLoss()(features, features, torch.tensor(100.0)).item() == pytest.approx(math.log(8))


def test_loss_is_float32_under_autocast() -> None:
    features = torch.nn.functional.normalize(torch.randn(16, 8), dim=-1)
    exact = ClipLoss()(features, features.flip(1), torch.tensor(50.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = ClipLoss()(features, features.flip(1), torch.tensor(50.0))
    assert mixed.dtype is torch.float32
    assert torch.equal(mixed, exact)


def test_several_positives_share_the_target() -> None:
    """By hand: captions 0 and 1 belong to images 0 and 1 alike, caption 2 to image 2."""
    images, texts = torch.eye(3), torch.tensor([[0.8, 0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    positives = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    log_probabilities = (2 * images @ texts.T).log_softmax(dim=1)
    fractions = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    expected = -(fractions * log_probabilities).sum(dim=1).mean()  # symmetric, so both directions agree
    loss = ClipLoss(multi_positive=True)(images, texts, torch.tensor(2.0), positives)
    torch.testing.assert_close(loss, expected)
    assert loss != ClipLoss()(images, texts, torch.tensor(2.0), positives)


def test_one_positive_a_row_is_the_plain_loss() -> None:
    torch.manual_seed(0)
    images, texts = (torch.nn.functional.normalize(torch.randn(5, 4), dim=1) for _ in range(2))
    plain = ClipLoss()(images, texts, torch.tensor(7.0))
    several = ClipLoss(multi_positive=True)(images, texts, torch.tensor(7.0), torch.eye(5).bool())
    torch.testing.assert_close(several, plain)


def test_label_smoothing_spreads_its_fraction_over_the_row() -> None:
    images, texts = torch.eye(3), torch.tensor([[0.8, 0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    log_probabilities = (2 * images @ texts.T).log_softmax(dim=1)
    targets = 0.7 * torch.eye(3) + 0.3 / 3
    expected = -(targets * log_probabilities).sum(dim=1).mean()  # symmetric, so both directions agree
    loss = ClipLoss(label_smoothing=0.3)(images, texts, torch.tensor(2.0))
    torch.testing.assert_close(loss, expected)
