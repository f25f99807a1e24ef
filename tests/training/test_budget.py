"""Ends of a run by each of its budgets."""

import pytest

from miniclip.errors import SettingError, UserError
from miniclip.training.budget import Budget


def end_of(budget: Budget) -> int | None:
    """Steps of a run with two forward passes per step, whose epochs are completed after 50."""
    return budget.total_steps(steps_of_epochs=50, passes_at=lambda steps: 2 * steps)


def test_epochs_count_only_where_nothing_else_is_given() -> None:
    assert end_of(Budget(epochs=5)) == 50
    assert end_of(Budget(epochs=5, steps=8)) == 8


def test_forward_passes_end_with_the_last_step_that_they_suffice_for() -> None:
    assert end_of(Budget(epochs=5, forward_passes=9)) == 4
    assert end_of(Budget(epochs=5, forward_passes=10)) == 5


def test_where_the_clock_decides_no_step_is_known_to_be_the_last() -> None:
    budget = Budget(epochs=5, minutes=1.5)
    assert end_of(budget) is None and budget.seconds == 90.0
    assert Budget(epochs=5).seconds is None


def test_numbers_and_pairs_that_cannot_be() -> None:
    with pytest.raises(SettingError, match=r"budget\.steps"):
        Budget(epochs=1, steps=0)
    with pytest.raises(UserError, match=r"trainer\.budget\.steps=8 and trainer\.budget\.minutes=2"):
        Budget(epochs=1, steps=8, minutes=2)
