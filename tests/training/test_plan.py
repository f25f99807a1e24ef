"""How long a run trains, from its start and from the middle of an epoch."""

from typing import Any

import pytest
import torch
from torch import nn

from miniclip.data.sampler import EpochBatches
from miniclip.errors import SettingError
from miniclip.optim import SAM, PassOptimizer, UnusualGradient
from miniclip.training import Budget
from miniclip.training.plan import Plan
from miniclip.training.progress import Progress


def sam() -> PassOptimizer:
    return SAM([nn.Parameter(torch.ones(1))], torch.optim.SGD, lr=0.1)


def plan(
    progress: Progress, *, optimizer: PassOptimizer | None = None, accumulate_steps: int = 1, **budget: Any
) -> Plan:
    """Of a run with 43 images in batches of 8: five steps per epoch."""
    batches = EpochBatches(43, batch_size=8, seed=0, accumulate_steps=accumulate_steps)
    given = Budget(**{"epochs": 2, **budget})
    return Plan(given, batches, progress, optimizer or sam(), accumulate_steps=accumulate_steps)


@pytest.mark.parametrize(
    ("budget", "total_steps", "num_epochs"),
    [
        ({}, 10, 2),
        ({"steps": 3}, 3, 1),
        ({"steps": 5}, 5, 1),
        ({"steps": 6}, 6, 2),
        ({"forward_passes": 7}, 3, 1),  # two per step, the last one would need an eighth
        ({"minutes": 1}, None, 0),
    ],
)
def test_a_budget_in_steps_and_epochs(
    budget: dict[str, Any], total_steps: int | None, num_epochs: int
) -> None:
    found = plan(Progress(), **budget)
    assert (found.total_steps, found.num_epochs) == (total_steps, num_epochs)
    assert not found.is_done
    assert found.title(1) == ("1" if total_steps is None else f"1/{num_epochs}")


def test_a_resumed_run_counts_what_is_left_of_its_epoch() -> None:
    progress = Progress(epoch=1, position=24, step=8, forward_passes=16)
    found = plan(progress, epochs=3)
    assert (found.total_steps, found.num_epochs) == (15, 3)  # two steps are left, and five more
    assert found.done_of_total == (8, 15)


def test_a_smaller_budget_is_done_at_once() -> None:
    progress = Progress(epoch=1, position=24, step=8, forward_passes=16)
    found = plan(progress, steps=4)
    assert found.is_done and found.num_epochs == 2


def test_passes_that_a_checkpoint_did_not_count_are_counted_anew() -> None:
    progress = Progress(step=4, position=32, forward_passes=None)
    plan(progress, accumulate_steps=2)
    assert progress.forward_passes == 16


def test_the_clock_ends_a_run_and_its_schedule() -> None:
    progress = Progress()
    found = plan(progress, minutes=0.5)
    progress.seconds = 15.0
    assert found.done_of_total == (15_000, 30_000) and not found.is_done
    progress.seconds = 30.0
    assert found.is_done


def test_a_budget_that_is_less_than_a_step_is_refused() -> None:
    with pytest.raises(SettingError, match=r"forward_passes=1.*less than one step"):
        plan(Progress(), forward_passes=1)


def test_passes_that_only_the_run_tells_end_it_as_they_are_taken() -> None:
    w = nn.Parameter(torch.ones(1))
    optimizer = SAM([w], torch.optim.SGD, lr=0.1, trigger=UnusualGradient())
    progress = Progress(step=4, forward_passes=5)
    found = plan(progress, optimizer=optimizer, forward_passes=10)
    assert found.total_steps is None and found.title(1) == "1"
    assert found.done_of_total == (5, 10) and not found.is_done

    progress.forward_passes = 9
    assert not found.is_done
    progress.forward_passes = 11  # the last step took two
    assert found.is_done
    # a run that is resumed there is where it was
    again = plan(Progress(step=4, forward_passes=5), optimizer=optimizer, forward_passes=10)
    assert again.done_of_total == (5, 10)


def test_less_than_a_millisecond_is_a_budget() -> None:
    found = plan(Progress(), minutes=1e-6)
    assert found.done_of_total == (0, 1) and not found.is_done
