"""In which steps the weights are perturbed: as many as are counted, and in a run that goes on the same."""

import pytest
import torch

from miniclip.errors import SettingError
from miniclip.optim import SAM
from miniclip.optim.ascents import Ascents
from tests.optim.test_sam import SGD, quadratic


@pytest.mark.parametrize("total", [1, 7, 10, 33, 150])
@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("start_fraction", [0.0, 0.1, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("probability", [1.0, 0.4])
def test_as_many_are_counted_as_there_are(
    total: int, interval: int, start_fraction: float, probability: float
) -> None:
    ascents = Ascents(interval=interval, start_fraction=start_fraction, probability=probability)
    begun = [step for step in range(total) if ascents.has_begun(step / total)]
    found = [step in begun and ascents.include(step, first=begun[0]) for step in range(total)]
    for steps in {0, 1, total // 2, total}:
        assert ascents.count(steps, total=total) == sum(found[:steps])
    if begun and probability == 1:
        assert found.index(True) == begun[0] >= start_fraction * total - 1e-9


def test_so_many_are_drawn_as_the_probability_says() -> None:
    ascents = Ascents(interval=1, start_fraction=0, probability=0.3)
    assert ascents.count(10_000, total=10_000) == pytest.approx(3000, abs=200)
    assert Ascents(interval=1, start_fraction=0, probability=0).count(100, total=100) == 0


def test_what_is_drawn_is_of_torchs_seed_and_part_of_the_state() -> None:
    drawn, states = [], []
    for seed in (0, 1):
        torch.manual_seed(seed)
        ascents = Ascents(interval=1, start_fraction=0, probability=0.5)
        drawn.append([ascents.include(step, first=0) for step in range(40)])
        states.append(ascents.state_dict())
    assert drawn[0] != drawn[1]
    ascents.load_state_dict(states[0])
    assert [ascents.include(step, first=0) for step in range(40)] == drawn[0]


def test_sam_begins_where_it_is_told() -> None:
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = SAM([w], SGD, rho=0.1, start_fraction=0.6)
    lengths = []
    for step in range(10):
        optimizer.fraction_done = step / 10
        optimizer.step(quadratic(w))
        lengths.append(optimizer.last_rho)
    assert lengths == [0] * 6 + [0.1] * 4
    assert optimizer.num_passes(10) == 14 and optimizer.num_passes(5, total=10) == 5
    assert optimizer.num_passes(8, total=10) == 10


@pytest.mark.parametrize("interval", [2, 20])
def test_an_interval_begins_where_sam_does(interval: int) -> None:
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = SAM([w], SGD, rho=0.1, start_fraction=0.7, interval=interval)
    perturbed = []
    for step in range(10):
        optimizer.fraction_done = step / 10
        optimizer.step(quadratic(w))
        perturbed.append(optimizer.last_rho > 0)
    assert [step for step, is_one in enumerate(perturbed) if is_one] == list(range(7, 10, interval))
    assert optimizer.num_passes(10) == 10 + sum(perturbed)


@pytest.mark.parametrize(
    ("setting", "value"), [("interval", 0), ("start_fraction", 1.5), ("probability", -0.1)]
)
def test_what_is_out_of_range_is_refused(setting: str, value: float) -> None:
    with pytest.raises(SettingError) as caught:
        SAM([torch.nn.Parameter(torch.ones(1))], SGD, **{setting: value})
    assert caught.value.setting == setting
