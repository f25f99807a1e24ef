"""The loss against values worked out by hand."""

import math

import pytest
import torch

from miniclip.errors import UserError
from miniclip.losses import ClipLoss, Loss, SigLipLoss
from miniclip.positives import PositivePairs


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


@pytest.mark.parametrize(
    "loss", [ClipLoss(), ClipLoss(chunk_size=4), SigLipLoss(initial_bias=-10, chunk_size=4)]
)
@pytest.mark.parametrize(("num_images", "num_captions"), [(8, 9), (9, 8)])
def test_as_many_captions_as_images(loss: Loss, num_images: int, num_captions: int) -> None:
    with pytest.raises(UserError, match=f"not {num_images} images with {num_captions} captions"):
        loss(torch.eye(num_images, 9), torch.eye(num_captions, 9), torch.tensor(1.0))


def test_several_positives_share_the_target() -> None:
    """By hand: captions 0 and 1 belong to images 0 and 1 alike, caption 2 to image 2."""
    images, texts = torch.eye(3), torch.tensor([[0.8, 0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    positives = PositivePairs.of(torch.tensor([0, 0, 1]), ["a", "b", "c"])
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
    unlike = PositivePairs(torch.arange(5), torch.arange(5))
    several = ClipLoss(multi_positive=True)(images, texts, torch.tensor(7.0), unlike)
    torch.testing.assert_close(several, plain)


def test_label_smoothing_spreads_its_fraction_over_the_row() -> None:
    images, texts = torch.eye(3), torch.tensor([[0.8, 0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    log_probabilities = (2 * images @ texts.T).log_softmax(dim=1)
    targets = 0.7 * torch.eye(3) + 0.3 / 3
    expected = -(targets * log_probabilities).sum(dim=1).mean()  # symmetric, so both directions agree
    loss = ClipLoss(label_smoothing=0.3)(images, texts, torch.tensor(2.0))
    torch.testing.assert_close(loss, expected)


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Features (5, 4) of images and of texts."""
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(2, 5, 4, generator=generator)
    return torch.nn.functional.normalize(images, dim=1), torch.nn.functional.normalize(texts, dim=1)


def test_the_sigmoid_of_each_pair_by_hand() -> None:
    images, texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.8, 0.6], [0.0, 1.0]])
    scale, bias = 2.0, -1.0
    right = [scale * 0.8 + bias, scale * 1.0 + bias]
    wrong = [scale * 0.0 + bias, scale * 0.6 + bias]
    signed = [*right, *(-z for z in wrong)]
    expected = sum(math.log(1 + math.exp(-z)) for z in signed) / 2

    loss = SigLipLoss(initial_bias=bias)(images, texts, torch.tensor(scale))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_the_sigmoid_loss_takes_several_positives_where_they_are_wanted() -> None:
    images, texts = pairs()
    positives = PositivePairs.of(torch.tensor([0, 1, 2, 3, 4]), ["a", "a", "b", "c", "d"])
    scale = torch.tensor(7.0)

    labels = 2 * positives.table().float() - 1
    expected = (1 + (-labels * (7 * images @ texts.T - 10)).exp()).log().sum() / 5
    several = SigLipLoss(initial_bias=-10.0, multi_positive=True)(images, texts, scale, positives)
    torch.testing.assert_close(several, expected)

    plain = SigLipLoss(initial_bias=-10.0)
    assert plain(images, texts, scale, positives) == plain(images, texts, scale) != several


def test_the_sigmoid_loss_and_its_gradients_are_open_clips() -> None:
    open_clip = pytest.importorskip("open_clip.loss", reason="needs the extra open_clip")
    images, texts = pairs()
    scale, bias = torch.tensor(10.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
    theirs = open_clip.SigLipLoss()(images, texts, scale, bias)
    of_scale, of_bias = torch.autograd.grad(theirs, (scale, bias))

    loss = SigLipLoss(initial_bias=-10.0)
    ours = loss(images, texts, scale)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, (scale, loss.logit_bias)), (of_scale, of_bias))


def test_the_sigmoid_loss_is_float32_under_autocast() -> None:
    images, texts = pairs()
    loss = SigLipLoss(initial_bias=-10.0)
    exact = loss(images, texts, torch.tensor(50.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(images, texts, torch.tensor(50.0))
    assert mixed.dtype is torch.float32
    assert torch.equal(mixed, exact)


@pytest.mark.parametrize("size", [1, 2, 8])
def test_chance_is_the_loss_of_a_model_that_knows_nothing(size: int) -> None:
    features = torch.ones(size, 4) / 2
    loss = ClipLoss()(features, features, torch.tensor(5.0))
    assert ClipLoss().chance(size) == pytest.approx(loss.item(), abs=1e-6)

    # the best bias makes a pair right with probability 1 / B
    knowing_the_size = SigLipLoss(initial_bias=-math.log(size - 1) if size > 1 else 50.0)
    least = knowing_the_size(features, features, torch.tensor(0.0))
    assert knowing_the_size.chance(size) == pytest.approx(least.item(), abs=1e-6)
    assert math.isnan(Loss().chance(size))
