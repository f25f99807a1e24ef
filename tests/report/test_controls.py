"""Which group each is held against."""

import pytest

from miniclip.errors import UserError
from miniclip.report.controls import controls_of
from miniclip.report.groups import Group

ADAMW, SAM = "torch.optim.AdamW", "miniclip.optim.SAM"


def groups_of(*all_settings: dict[str, object]) -> list[Group]:
    return [Group(str(number), dict(settings), []) for number, settings in enumerate(all_settings)]


def names(groups: list[Group], wanted: str | None = None) -> list[str]:
    return [control.name for control in controls_of(groups, wanted)]


def test_the_one_without_a_perturbation_else_the_first() -> None:
    assert (
        names(groups_of({"optimizer.rho": 0.1}, {"optimizer.rho": 0}, {"optimizer.rho": 0.2})) == ["1"] * 3
    )
    assert names(groups_of({"optimizer.rho": 0.1}, {"optimizer.rho": 0.2})) == ["0", "0"]
    assert names(groups_of({"width": 1}, {"width": 2}, {"width": 3})) == ["0", "0", "0"]


def test_a_study_of_adamw_alone_has_one_control() -> None:
    groups = groups_of(*({"optimizer._target_": ADAMW, "width": width} for width in (1, 2, 3)))
    assert names(groups) == ["0", "0", "0"]


def test_in_each_regime_the_control_of_that_regime() -> None:
    groups = groups_of(
        *(
            {"optimizer._target_": target, "data.caption_noise": noise}
            for target in (ADAMW, SAM)
            for noise in (0, 0.2, 0.4)
        )
    )
    assert names(groups) == ["0", "1", "2", "0", "1", "2"]
    assert names(groups, f"optimizer._target_={SAM}") == ["3", "4", "5", "3", "4", "5"]
    # another regime is held against the same optimizer in the first one
    assert names(groups, "data.caption_noise=0") == ["0", "0", "0", "3", "3", "3"]


def test_without_an_equal_one_the_most_alike() -> None:
    """Budgets of equal minutes are of other steps; the data weigh more than what optimizers share."""
    groups = groups_of(
        {"optimizer._target_": ADAMW, "optimizer.lr": 1, "data.caption_noise": 0, "steps": 100},
        {"optimizer._target_": ADAMW, "optimizer.lr": 2, "data.caption_noise": 0.4, "steps": 100},
        {"optimizer._target_": SAM, "optimizer.lr": 1, "data.caption_noise": 0.4, "steps": 50},
    )
    assert names(groups) == ["0", "1", "1"]


def test_a_control_is_named_by_its_number_however_it_is_written() -> None:
    groups = groups_of({"rho": 0, "k": None}, {"rho": 0.5, "k": True}, {"rho": 1, "k": "1.0"})
    assert names(groups, "rho=0.0") == names(groups, "rho=0") == ["0"] * 3
    assert names(groups, "rho=5e-1") == ["1"] * 3
    assert names(groups, "rho=1.0") == ["2"] * 3
    for no_number in ("k=1", "rho=nan", "rho=zero"):
        with pytest.raises(UserError, match="is none of the groups"):
            names(groups, no_number)


def test_an_unknown_control_is_refused() -> None:
    with pytest.raises(UserError, match="they differ in: width=1, width=2"):
        controls_of(groups_of({"width": 1}, {"width": 2}), "width=7")


def test_one_group_alone_is_held_against_none() -> None:
    with pytest.raises(UserError, match=r"--control width=1: there is one group alone; leave it out"):
        controls_of(groups_of({}), "width=1")
