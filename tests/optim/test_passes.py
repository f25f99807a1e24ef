"""The optimizer protocol: which passes a closure is told of, and a plain optimizer behind it."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from miniclip.errors import UserError
from miniclip.optim import MSAM, SAM, PassOptimizer, SinglePass, as_pass_optimizer
from miniclip.optim.passes import run_pass

ADAMW = partial(torch.optim.AdamW, lr=0.1)


def start() -> nn.Parameter:
    return nn.Parameter(torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    ("make", "passes"),
    [
        (lambda w: as_pass_optimizer(ADAMW([w])), [[0], [0], [0]]),
        (lambda w: SAM([w], ADAMW, rho=0.1), [[0, 1], [0, 1], [0, 1]]),
        (lambda w: SAM([w], ADAMW, rho=0.0), [[0], [0], [0]]),
        (lambda w: SAM([w], ADAMW, rho=0.1, interval=2), [[0, 1], [0], [0, 1]]),
        (lambda w: MSAM([w], ADAMW, rho=0.1), [[0], [0], [0]]),
    ],
    ids=["plain", "sam", "rho 0", "interval", "msam"],
)
def test_a_closure_is_told_its_pass_and_passes_are_counted(make: Any, passes: list[list[int]]) -> None:
    w = start()
    optimizer: PassOptimizer = make(w)
    told: list[int] = []

    def closure(pass_number: int) -> Tensor:
        told.append(pass_number)
        loss = w.square().sum()
        loss.backward()
        return loss.detach()

    for number, expected in enumerate(passes, start=1):
        told.clear()
        optimizer.backward(closure)
        optimizer.base_optimizer.step()
        assert told == expected
        assert optimizer.num_passes(number) == sum(map(len, passes[:number]))


def test_a_plain_optimizer_behind_the_protocol_takes_the_same_steps() -> None:
    ours, theirs = start(), start()
    plain = ADAMW([theirs])
    adapted = as_pass_optimizer(ADAMW([ours]))
    assert isinstance(adapted, SinglePass) and isinstance(adapted, PassOptimizer)
    for _ in range(3):
        plain.zero_grad()
        theirs.square().sum().backward()
        plain.step()

        adapted.backward(lambda pass_number: _backward(ours))
        adapted.base_optimizer.step()
    assert torch.equal(ours, theirs)
    assert adapted.metrics == adapted.host_metrics == {}

    # its state is the plain optimizer's own: checkpoints do not change
    state = copy.deepcopy(plain.state_dict())
    assert adapted.state_dict().keys() == state.keys()
    adapted.load_state_dict(state)
    assert adapted.param_groups[0]["lr"] == 0.1


def test_sam_speaks_the_protocol_itself() -> None:
    optimizer = SAM([start()], ADAMW)
    assert as_pass_optimizer(optimizer) is optimizer
    assert optimizer.host_metrics == {"rho": 0.0}


def test_an_optimizer_with_half_the_protocol_is_no_plain_one() -> None:
    class OfAnotherTime(torch.optim.SGD):
        def num_passes(self, steps: int, *, total: int | None = None) -> int:
            return 2 * steps

    with pytest.raises(UserError, match=r"OfAnotherTime has num_passes, but not all of .*perturbs_alone"):
        as_pass_optimizer(OfAnotherTime([start()], lr=0.1))


def test_closures_without_an_argument_and_with_defaults_stay_as_they_are() -> None:
    two = torch.tensor(2.0)
    assert run_pass(lambda: two, 1) == 2
    assert run_pass(lambda value=two: value, 1) == 2  # type: ignore[misc]
    assert run_pass(lambda pass_number: two * pass_number, 1) == 2
    with pytest.raises(UserError, match="must return its loss as a tensor"):
        run_pass(lambda: None, 0)  # type: ignore[arg-type,return-value]


def _backward(w: nn.Parameter) -> Tensor:
    loss = w.square().sum()
    loss.backward()
    return loss.detach()
