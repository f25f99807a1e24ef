"""Temperature: start, gradient, clamp, evaluation."""

import math
from typing import Any

import pytest
import torch

from miniclip.errors import SettingError
from miniclip.models import DynamicTemperature, FixedTemperature, LearnedTemperature


def dynamic() -> DynamicTemperature:
    return DynamicTemperature(initial_scale=1 / 0.07, hidden=8, momentum=0.1)


@pytest.mark.parametrize("spread", [1e-4, 1e-2, 1.0])
def test_starts_at_one_over_007_whatever_the_variance(spread: float) -> None:
    variance = torch.tensor(spread)
    for temperature in (
        dynamic(),
        LearnedTemperature(initial_scale=1 / 0.07),
        FixedTemperature(initial_scale=1 / 0.07),
    ):
        assert temperature(variance).item() == pytest.approx(1 / 0.07, rel=1e-5)
        assert temperature(variance).shape == ()


def test_gradient_reaches_every_weight_of_the_mlp() -> None:
    temperature = dynamic()
    optimizer = torch.optim.SGD(temperature.parameters(), lr=0.1)
    for _ in range(2):  # the first step opens the way to the hidden layer
        optimizer.zero_grad()
        temperature(torch.rand(())).log().backward()
        optimizer.step()
    for name, parameter in temperature.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_scale_is_clamped_at_100() -> None:
    for temperature, log_scale in (
        (t := dynamic(), t.mlp[-1].bias),
        (t2 := LearnedTemperature(initial_scale=10), t2.log_scale),
    ):
        torch.nn.init.constant_(log_scale, 9.0)
        assert temperature(torch.rand(())).item() == 100


@pytest.mark.parametrize("make", [dynamic, lambda: LearnedTemperature(initial_scale=1 / 0.07)])
@pytest.mark.parametrize("num_pushes", [60, 300])
def test_a_scale_that_passed_100_comes_back(make: Any, num_pushes: int) -> None:
    torch.manual_seed(0)
    temperature, variance = make(), torch.rand(())
    optimizer = torch.optim.AdamW(temperature.parameters(), lr=0.05, weight_decay=0.0)
    scales = []
    for target in [1000] * num_pushes + [20] * 400:
        optimizer.zero_grad()
        scale = temperature(variance)
        loss = (scale - target).square()
        (1e-4 * loss if target == 1000 else loss).backward()  # AdamW long remembers large gradients
        optimizer.step()
        scales.append(scale.item())
    assert max(scales) == 100
    assert scales[-1] == pytest.approx(20, rel=0.02)


def test_at_the_maximum_a_gradient_passes_that_lowers_the_scale_and_no_other() -> None:
    temperature = LearnedTemperature(initial_scale=100.0)
    temperature.log_scale.data += 0.01
    for sign, expected in ((1, 100.0), (-1, 0.0)):
        temperature.log_scale.grad = None
        (sign * temperature(torch.zeros(()))).backward()
        assert temperature.log_scale.grad is not None
        assert temperature.log_scale.grad.item() == expected


def test_evaluation_uses_the_running_variance_and_not_the_batch() -> None:
    temperature = dynamic()
    torch.nn.init.normal_(temperature.mlp[-1].weight)
    variances = torch.rand(3)
    for variance in variances:
        temperature(variance)
    assert temperature.running_variance.item() == pytest.approx(variances.mean().item(), rel=1e-5)
    temperature.eval()
    before = temperature.running_variance.clone()
    assert temperature(torch.rand(())) == temperature(None)
    assert torch.equal(temperature.running_variance, before)
    feature = torch.log(before + 1e-6).reshape(1)
    expected = math.exp(temperature.mlp(feature).item())
    assert temperature(torch.zeros(())).item() == pytest.approx(min(expected, 100), rel=1e-5)


@pytest.mark.parametrize("scale", [0.0, -1.0, 101.0])
def test_refuses_a_scale_out_of_range(scale: float) -> None:
    with pytest.raises(SettingError, match="initial_scale"):
        FixedTemperature(initial_scale=scale)
