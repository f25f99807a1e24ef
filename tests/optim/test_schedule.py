"""Schedules at hand-picked steps, and their effect on an optimizer."""

import pytest
import torch

from miniclip.errors import SettingError
from miniclip.optim import SAM, Constant, WarmupCosine, set_learning_rate


def test_warmup_rises_and_the_cosine_falls() -> None:
    schedule = WarmupCosine(warmup_fraction=0.1, final_factor=0.2)
    factors = [schedule.factor(step, 100) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1
    assert factors[55] == pytest.approx(0.6)
    assert factors[100] == pytest.approx(0.2)
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_a_run_of_one_step_has_a_learning_rate() -> None:
    assert WarmupCosine(warmup_fraction=0.1, final_factor=0).factor(0, 1) == 1
    assert Constant().factor(7, 10) == 1


def test_learning_rates_follow_their_own_start_through_sam() -> None:
    groups = [
        {"params": [torch.nn.Parameter(torch.ones(1))], "lr": 1.0},
        {"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.1},
    ]
    optimizer = SAM(groups, torch.optim.SGD, rho=0.1)
    for factor in (0.5, 0.25):
        set_learning_rate(optimizer, factor)
    assert [g["lr"] for g in optimizer.base_optimizer.param_groups] == [0.25, 0.025]


@pytest.mark.parametrize("changes", [{"warmup_fraction": 1.0}, {"final_factor": 2.0}])
def test_refuses_factors_out_of_range(changes: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        WarmupCosine(**{"warmup_fraction": 0.1, "final_factor": 0.0} | changes)
