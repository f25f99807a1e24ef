"""Sharpness by block, and the top eigenvector, on a quadratic whose Hessian is known."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from miniclip.config import instantiate
from miniclip.config.compose import compose
from miniclip.data.batch import Batch
from miniclip.losses import ClipLoss
from miniclip.metrics import (
    LossSurface,
    absolute_cosine,
    block_indices,
    block_rises,
    block_sharpness,
    m_sharpness,
    top_eigenpair,
)
from miniclip.metrics.vectors import random_like
from tests.conftest import TINY

EIGENVECTORS = torch.tensor([[1.0, 2.0, 2.0], [2.0, 1.0, -2.0], [2.0, -2.0, 1.0]]) / 3
"""Rows of length 1, orthogonal to one another."""

EIGENVALUES = torch.tensor([9.0, 4.0, 1.0])
HESSIAN = EIGENVECTORS.T @ torch.diag(EIGENVALUES) @ EIGENVECTORS
PLACES = {"front": [0], "back": [1]}
W = torch.tensor([1.0, -2.0, 0.5])
SLOPES = (torch.tensor([0.5, 0.0, 1.0]), torch.tensor([-1.0, 2.0, 0.0]))


class Bowl(LossSurface):
    """L(w) = w'Hw / 2 + b'w, with a slope b of its own for each batch, and w of two blocks of 2 and 1."""

    def __init__(self, w: Tensor, slopes: Sequence[Tensor] = SLOPES):
        self.params = [nn.Parameter(w[:2].clone()), nn.Parameter(w[2:].clone())]
        self.batches = slopes  # type: ignore[assignment]

    def batch_loss(self, batch: Any) -> Tensor:
        w = torch.cat(self.params)
        return w @ HESSIAN @ w / 2 + batch @ w


def test_the_eigenvector_is_the_known_one() -> None:
    top = top_eigenpair(Bowl(W), max_products=60, tolerance=0)
    assert top.value == pytest.approx(9, rel=1e-5)
    vector = torch.cat(top.vector)
    # in float32 the value stops changing before the vector's last digits do
    assert torch.allclose(vector * vector[0].sign(), EIGENVECTORS[0], atol=1e-3)
    assert top.residual < 1e-3


def test_the_residual_tells_a_vector_that_has_not_converged() -> None:
    early = top_eigenpair(Bowl(W), max_products=1)
    vector = torch.cat(early.vector)
    left = (HESSIAN @ vector - early.value * vector).norm() / early.value
    assert early.residual == pytest.approx(left.item(), rel=1e-4) and early.residual > 0.1


@pytest.mark.parametrize("sign", [1, -1])
def test_it_does_not_rest_on_another_eigenvector(sign: int) -> None:
    """The start has a tenth as much of the first eigenvector as of another one, nearly as large."""

    class Ridge(LossSurface):
        def __init__(self) -> None:
            self.params = [nn.Parameter(torch.zeros(40)), nn.Parameter(torch.zeros(4, 5))]
            start = torch.cat([x.flatten() for x in random_like(self.params, seed=0)])
            basis = torch.linalg.qr(torch.column_stack([start, torch.eye(60)[:, :59]])).Q.T
            first, second = basis[1] + 0.05 * basis[0], basis[2] + 0.5 * basis[0]
            vectors = torch.linalg.qr(torch.column_stack([first, second, *basis[3:]])).Q
            values = torch.cat([sign * torch.tensor([12.0, 10.0]), torch.linspace(-1, 1, 57)])
            self.hessian = vectors @ torch.diag(values) @ vectors.T

        def hessian_product(self, vector: Sequence[Tensor]) -> list[Tensor]:
            product = self.hessian @ torch.cat([x.flatten() for x in vector])
            return [product[:40], product[40:].view(4, 5)]

    top = top_eigenpair(Ridge())
    assert top.value == pytest.approx(sign * 12, rel=1e-3) and top.residual <= 0.01


def test_one_weight_and_no_curvature() -> None:
    class Line(LossSurface):
        def __init__(self, curvature: float) -> None:
            self.params, self.curvature = [nn.Parameter(torch.ones(1))], curvature

        def hessian_product(self, vector: Sequence[Tensor]) -> list[Tensor]:
            return [self.curvature * x for x in vector]

    assert top_eigenpair(Line(-3.0))[::2] == (-3.0, 0.0)
    assert top_eigenpair(Line(0.0))[::2] == (0.0, 0.0)
    assert math.isnan(top_eigenpair(Line(math.nan)).value)


def test_the_cosine_of_gradient_and_eigenvector_is_the_known_one() -> None:
    surface = Bowl(W)
    gradient = HESSIAN @ W + (SLOPES[0] + SLOPES[1]) / 2
    assert torch.allclose(torch.cat(surface.mean_gradient()), gradient)
    expected = (gradient @ EIGENVECTORS[0]).abs() / gradient.norm()
    top = top_eigenpair(surface, max_products=60, tolerance=0)
    assert absolute_cosine(surface.mean_gradient(), top.vector) == pytest.approx(expected.item(), rel=1e-4)


def test_on_an_eigenvector_the_gradient_is_parallel_to_it() -> None:
    surface = Bowl(3 * EIGENVECTORS[0], slopes=(torch.zeros(3),))
    top = top_eigenpair(surface, max_products=60, tolerance=0)
    assert absolute_cosine(surface.mean_gradient(), top.vector) == pytest.approx(1, abs=1e-5)
    rho = 0.3
    # along a unit vector v the loss rises by |g| rho + value rho^2 / 2
    expected = 9 * 3 * rho + 9 * rho**2 / 2
    assert m_sharpness(surface, rho) == pytest.approx(expected, rel=1e-5)


def test_the_rise_of_each_block_by_hand() -> None:
    rho = 0.3
    expected = {"front": 0.0, "back": 0.0}
    for slope in SLOPES:
        gradient = HESSIAN @ W + slope
        for name, rows in (("front", [0, 1]), ("back", [2])):
            e = torch.zeros(3)
            e[rows] = rho * gradient[rows] / gradient[rows].norm()
            expected[name] += (gradient @ e + e @ HESSIAN @ e / 2).item() / len(SLOPES)

    surface = Bowl(W)
    assert block_rises(surface, PLACES, rho) == pytest.approx(expected, rel=1e-4)
    assert torch.equal(torch.cat([p.detach() for p in surface.params]), W)


def test_fractions_and_the_eigenvector_of_each_block_by_hand() -> None:
    surface = Bowl(W)
    gradient = HESSIAN @ W + (SLOPES[0] + SLOPES[1]) / 2
    blocks = block_sharpness(
        surface,
        PLACES,
        rho=0.3,
        gradient=surface.mean_gradient(),
        eigenvector=[EIGENVECTORS[0][:2], EIGENVECTORS[0][2:]],
    )
    front, back = blocks["front"], blocks["back"]
    assert (front.num_weights, back.num_weights) == (2, 1)
    assert front.rise / back.rise == pytest.approx(front.fraction / back.fraction)
    assert front.fraction + back.fraction == pytest.approx(1)
    # of (1, 2, 2) / 3
    assert front.eigenvector_fraction == pytest.approx(5 / 9)
    assert back.eigenvector_fraction == pytest.approx(4 / 9)
    expected = (gradient[0] + 2 * gradient[1]).abs() / gradient[:2].norm() / 5**0.5
    assert front.gradient_cosine == pytest.approx(expected.item(), rel=1e-5)
    assert back.gradient_cosine == pytest.approx(1)  # one number lies along any other


def test_a_block_without_a_gradient_does_not_rise() -> None:
    surface = Bowl(torch.zeros(3), slopes=(torch.tensor([1.0, 0.0, 0.0]),))
    gradient = surface.mean_gradient()
    blocks = block_sharpness(surface, PLACES, rho=0.1, gradient=gradient, eigenvector=gradient)
    assert blocks["back"].rise == blocks["back"].fraction == blocks["back"].gradient_cosine == 0
    assert blocks["front"].fraction == 1


def test_of_a_model_all_that_sam_perturbs_lies_in_one_block() -> None:
    cfg = compose(*TINY, "encoder.image.trainable=last_stage")
    torch.manual_seed(0)
    model = instantiate.make_model(cfg, vocab_size=300)
    token_ids = torch.randint(300, (8, 6))
    inputs = Batch(torch.randn(8, 3, 32, 32), token_ids, torch.ones_like(token_ids).bool())
    surface = LossSurface(model, ClipLoss(), [inputs])

    blocks = block_indices(surface)
    assert sorted(index for block in blocks.values() for index in block) == list(range(len(surface.params)))
    assert "image stem" not in blocks  # frozen
    before = [p.detach().clone() for p in surface.params]
    rises = block_rises(surface, blocks, rho=0.02)
    assert len(set(rises.values())) == len(rises) and all(rise != 0 for rise in rises.values())
    assert all(torch.equal(p, was) for p, was in zip(surface.params, before, strict=True))
