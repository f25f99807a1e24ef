"""Schedules at hand-picked steps, and their effect on an optimizer."""

import math
from typing import Any

import pytest
import torch

from miniclip.errors import SettingError
from miniclip.optim import SAM, Constant, WarmupCosine, WarmupStableDecay, set_learning_rate


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


STABLE: dict[str, Any] = {
    "warmup_fraction": 0.1,
    "decay_fraction": 0.4,
    "decay_shape": "linear",
    "final_factor": 0.2,
}


@pytest.mark.parametrize(
    ("shape", "after_a_quarter", "halfway"),
    [
        ("linear", 0.2 + 0.8 * 0.75, 0.6),
        ("cosine", 0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2, 0.6),
        ("sqrt", 0.2 + 0.8 * 0.5, 0.2 + 0.8 * (1 - math.sqrt(0.5))),
    ],
)
def test_the_rate_rises_stays_and_falls(shape: str, after_a_quarter: float, halfway: float) -> None:
    schedule = WarmupStableDecay(**STABLE | {"decay_shape": shape})
    factors = [schedule.factor(step, 100) for step in range(102)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[9:61] == [1] * 52
    assert factors[70] == pytest.approx(after_a_quarter)
    assert factors[80] == pytest.approx(halfway)
    assert factors[100] == factors[101] == pytest.approx(0.2)
    assert factors[60:] == sorted(factors[60:], reverse=True)


def test_a_decay_of_nothing_is_none_and_one_of_all_begins_at_once() -> None:
    without = WarmupStableDecay(**STABLE | {"decay_fraction": 0.0})
    assert [without.factor(step, 10) for step in (1, 9, 10)] == [1, 1, 1]
    whole = WarmupStableDecay(
        **STABLE | {"warmup_fraction": 0.0, "decay_fraction": 1.0, "final_factor": 0.0}
    )
    assert [whole.factor(step, 4) for step in range(5)] == [1, 0.75, 0.5, 0.25, 0]
    assert WarmupStableDecay(**STABLE).factor(0, 1) == 1


@pytest.mark.parametrize("tenths", range(10))
def test_fractions_that_add_up_to_one_as_decimals_fit(tenths: int) -> None:
    fractions = {"warmup_fraction": tenths / 10, "decay_fraction": (10 - tenths) / 10}
    assert WarmupStableDecay(**STABLE | fractions).factor(100, 100) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("warmup_fraction", 1.0), ("decay_fraction", 0.91), ("decay_shape", "square"), ("final_factor", -0.1)],
)
def test_settings_of_the_stable_schedule_are_refused_by_name(setting: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"^{setting}="):
        WarmupStableDecay(**STABLE | {setting: value})


@pytest.mark.parametrize("changes", [{"warmup_fraction": 1.0}, {"final_factor": 2.0}])
def test_refuses_factors_out_of_range(changes: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        WarmupCosine(**{"warmup_fraction": 0.1, "final_factor": 0.0} | changes)
