"""Weights, gradients and moments may lie in memory in any order, also for torch's fused kernels."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from miniclip.optim import SAM
from tests.optim.test_sam import ADAMW
from tests.optim.test_sam_variants import MUON

OPTIMIZERS: dict[str, Any] = {
    "sam": lambda model: SAM(model.parameters(), partial(ADAMW, fused=True), rho=0.1, model=model),
    "sam on muon": lambda model: SAM(model.parameters(), MUON, rho=0.1, model=model),
    "muon": lambda model: MUON(model.parameters()),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 2))


def take_steps(model: nn.Module, optimizer: Any, num_steps: int = 2) -> Tensor:
    """Some steps on one batch; all weights in the order of their shapes."""
    images = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))

    def closure() -> Tensor:
        loss = model(images).square().mean()
        loss.backward()
        return loss.detach()

    for _ in range(num_steps):
        optimizer.zero_grad()
        optimizer.step(closure)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("way", ["loaded", "turned"])
def test_moments_of_contiguous_weights_go_on_in_channels_last(name: str, way: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[name](model)
    take_steps(model, optimizer)
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    state = copy.deepcopy(optimizer.state_dict())
    expected = take_steps(model, optimizer)

    if way == "turned":
        other.to(memory_format=torch.contiguous_format)
    continued = OPTIMIZERS[name](other)
    continued.load_state_dict(state)
    if way == "turned":
        other.to(memory_format=torch.channels_last)
    torch.testing.assert_close(take_steps(other, continued), expected, rtol=1e-4, atol=1e-5)


def test_a_gradient_in_another_order_is_that_of_its_weights() -> None:
    weights = [nn.Parameter(torch.zeros(2, 3)) for _ in range(2)]
    gradient = torch.arange(6.0).view(2, 3)
    weights[0].grad, weights[1].grad = gradient, gradient.T.contiguous().T
    for weight in weights:
        SAM([weight], partial(torch.optim.SGD, lr=1.0, fused=True)).base_optimizer.step()
    assert torch.equal(weights[0], weights[1])


def test_copies_keep_the_order_as_well() -> None:
    model = network()
    copied = copy.deepcopy((model, OPTIMIZERS["muon"](model)))
    take_steps(*copied)
    copied[0].to(memory_format=torch.channels_last)
    other = network()
    optimizer = OPTIMIZERS["muon"](other)
    expected = take_steps(other, optimizer, num_steps=4)
    torch.testing.assert_close(take_steps(*copied), expected, rtol=1e-4, atol=1e-5)
