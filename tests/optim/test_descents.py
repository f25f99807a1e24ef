"""Each descent by its formula, on L(w) = w'Aw / 2, and the functional one on a model by hand."""

import pytest
import torch
from torch import Tensor, nn

from miniclip.errors import UserError
from miniclip.optim import SAM, Functional, Renormalized, WeightedGap
from tests.optim.test_sam import CURVATURE, SGD, batches, quadratic, regression, small_net


def gradients() -> tuple[nn.Parameter, Tensor, Tensor]:
    """A weight, its gradient, and that at w + e for rho 0.3."""
    w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    g = CURVATURE * w.detach()
    return w, g, CURVATURE * (w.detach() + 0.3 * g / g.norm())


def test_a_renormalized_gradient_is_as_long_as_the_plain_one() -> None:
    w, g, g_p = gradients()
    SAM([w], SGD, rho=0.3, descent=Renormalized()).backward(quadratic(w))
    assert w.grad is not None
    torch.testing.assert_close(w.grad, g_p * g.norm() / g_p.norm())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.8])
def test_a_weighted_gap(gamma: float) -> None:
    w, g, g_p = gradients()
    SAM([w], SGD, rho=0.3, descent=WeightedGap(gamma=gamma)).backward(quadratic(w))
    assert w.grad is not None
    torch.testing.assert_close(w.grad, g + gamma / (1 - gamma) * (g_p - g))


def test_a_gap_of_a_half_is_sam() -> None:
    finals = []
    for descent in (None, WeightedGap(gamma=0.5)):
        model = small_net()
        optimizer = SAM(model.parameters(), SGD, rho=0.1, descent=descent, model=model)
        for inputs in batches(3):
            optimizer.step(regression(model, inputs))
        finals.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*finals)


def test_the_functional_gradient_of_two_layers_by_hand() -> None:
    """f(w) = w2 tanh(w1 x), L = (f - y)^2 / 2: the first f - y times the second pass's derivatives."""
    x, y = torch.tensor(0.7), torch.tensor(2.0)
    w = nn.Parameter(torch.tensor([0.5, -1.5]))
    known: list[Tensor] = []

    def features() -> Tensor:
        return w[1] * torch.tanh(w[0] * x)

    def closure(pass_number: int) -> Tensor:
        f = features()
        if pass_number == 0:
            known.append(f.detach() - y)
        f.backward(known[-1])
        return (f.detach() - y).square() / 2

    def derivatives(at: Tensor) -> Tensor:
        tanh = torch.tanh(at[0] * x)
        return torch.stack([at[1] * (1 - tanh**2) * x, tanh])

    optimizer = SAM([w], SGD, rho=0.2, descent=Functional())
    error = features().detach() - y
    g = error * derivatives(w.detach())
    optimizer.backward(closure)
    assert w.grad is not None
    torch.testing.assert_close(w.grad, error * derivatives(w.detach() + 0.2 * g / g.norm()))
    assert optimizer.reuses_feature_gradient


def test_what_the_second_pass_does_not_reach_keeps_its_first_gradient() -> None:
    w, scale = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(()))

    def closure(pass_number: int) -> Tensor:
        f = w.square().sum()
        (f if pass_number else f * scale).backward()
        return f.detach()

    groups = [{"params": [w]}, {"params": [scale], "perturb": False}]
    SAM(groups, SGD, rho=0.1, descent=Functional()).backward(closure)
    assert scale.grad == pytest.approx(2) and w.grad is not None and w.grad.norm() > 2 * 2**0.5

    optimizer = SAM([w, scale], SGD, rho=0.1, descent=Functional())
    with pytest.raises(UserError, match="lies behind the features and is perturbed"):
        optimizer.backward(closure)
    assert torch.equal(w, torch.ones(2)) and scale == 1
