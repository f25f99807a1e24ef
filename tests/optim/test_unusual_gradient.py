"""AE-SAM's trigger against its formula, and what it leaves of a step."""

import copy

import pytest
import torch
from torch import Tensor, nn

from miniclip.optim import SAM, ReusedAscent, UnusualGradient
from tests.optim.test_sam import SGD, quadratic


def test_a_norm_is_held_against_running_mean_and_deviation() -> None:
    trigger = UnusualGradient(decay=0.9, low=-1, high=1)
    norms = [1.0, 1.1, 0.9, 3.0, 1.0, 0.2, 1.5]
    mean, variance = norms[0] ** 2, 0.0
    for number, norm in enumerate(norms):
        if number:
            mean = 0.9 * mean + 0.1 * norm**2
            variance = 0.9 * variance + 0.1 * (norm**2 - mean) ** 2
        done = number / len(norms)
        c = done * -1 + (1 - done) * 1  # t/T lambda_1 + (1 - t/T) lambda_2
        expected = norm**2 >= mean + c * variance**0.5
        assert trigger.is_met(torch.tensor(norm), fraction_done=number / len(norms)) == expected
        trigger.end_step([ended_with(1.0)])


def ended_with(gradient: float) -> nn.Parameter:
    """A parameter after a step."""
    parameter = nn.Parameter(torch.ones(1))
    parameter.grad = torch.tensor([gradient])
    return parameter


def test_a_step_that_is_skipped_is_forgotten() -> None:
    trigger = UnusualGradient()
    trigger.is_met(torch.tensor(1.0), fraction_done=0)
    trigger.end_step([ended_with(1.0)])
    state = copy.deepcopy(trigger.state_dict())
    trigger.is_met(torch.tensor(2.0), fraction_done=0)
    trigger.end_step([ended_with(torch.nan)])
    assert trigger.state_dict() == state


def test_a_norm_that_is_not_finite_asks_for_nothing_and_is_forgotten() -> None:
    trigger = UnusualGradient()
    trigger.is_met(torch.tensor(1.0), fraction_done=0)
    trigger.end_step([ended_with(1.0)])
    state = copy.deepcopy(trigger.state_dict())
    for norm in (torch.inf, torch.nan):
        assert not trigger.is_met(torch.tensor(norm), fraction_done=0)
    assert trigger.state_dict() == state


def test_what_is_usual_at_first_is_unusual_in_the_end() -> None:
    met = []
    for fraction_done in (0.0, 1.0):
        trigger = UnusualGradient(decay=0.9, low=-1, high=1)
        for norm in (1.0, 2.0):
            trigger.is_met(torch.tensor(norm), fraction_done=0)
            trigger.end_step([ended_with(1.0)])
        met.append(trigger.is_met(torch.tensor(1.2), fraction_done=fraction_done))
    assert met == [False, True]


@pytest.mark.parametrize("scales", [(1.0, 1.0, 1.0, 1.0), (512.0, 8192.0, 64.0, 2048.0)])
def test_without_the_second_pass_the_step_is_the_plain_one(scales: tuple[float, ...]) -> None:
    """Every second gradient is small, and gets no second pass, whatever the loss is scaled by."""
    w = nn.Parameter(torch.ones(2))
    optimizer = SAM([w], SGD, rho=0.1, trigger=UnusualGradient(low=0, high=0))
    passes = []
    for size, scale in zip((1.0, 0.1, 1.0, 0.1), scales, strict=True):
        passes.append(0)

        def closure(size: float = size, scale: float = scale) -> Tensor:
            passes[-1] += 1
            loss = size * (w * torch.tensor([1.0, 2.0])).sum()
            (loss * scale).backward()
            return loss.detach()

        optimizer.backward(closure, loss_scale=scale)
        assert w.grad is not None
        torch.testing.assert_close(w.grad / scale, size * torch.tensor([1.0, 2.0]))
        assert (optimizer.last_rho > 0) == (passes[-1] == 2)
    assert passes == [2, 1, 2, 1]
    assert optimizer.num_passes(4) == 8  # at most


def test_an_ascent_is_reused_where_the_gradient_is_usual() -> None:
    """LookSAM under a trigger: the steps between are those that it leaves."""
    w = nn.Parameter(torch.ones(3))
    trigger = UnusualGradient(low=0, high=0)
    optimizer = SAM([w], SGD, rho=0.1, descent=ReusedAscent(alpha=0.5), trigger=trigger)
    optimizer.step(quadratic(w))
    (kept,) = optimizer.state_dict()["sam"]["descent"]["kept"]
    assert kept.norm() > 0

    with torch.no_grad():
        w.mul_(0.1)
    plain = nn.Parameter(w.detach().clone())
    quadratic(plain)()
    optimizer.backward(quadratic(w))
    assert optimizer.last_rho == 0 and w.grad is not None and plain.grad is not None
    torch.testing.assert_close(w.grad, plain.grad + 0.5 * plain.grad.norm() / kept.norm() * kept)
