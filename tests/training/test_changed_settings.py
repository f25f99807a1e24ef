"""Settings that differ between a checkpoint and the run that resumes it."""

from pathlib import Path

import pytest

from miniclip.errors import UserError
from miniclip.training.changed_settings import Change, changed_settings, check_changes


def test_data_may_move_and_helper_keys_are_no_settings() -> None:
    theirs = {"data": {"root": "/here/flickr", "limit": 5}, "arm": 1, "trainer": {"num_workers": 0}}
    ours = {"data": {"root": "/there/flickr", "limit": 5}, "arm": 2, "trainer": {"num_workers": 2}}
    assert changed_settings(theirs, ours) == []
    ours["data"]["limit"] = 6
    assert [str(change) for change in changed_settings(theirs, ours)] == [
        "data.limit=6 (the checkpoint has 5)"
    ]
    assert changed_settings(theirs, ours, is_same_data=True) == []


def test_another_optimizer_hides_what_its_base_differs_in() -> None:
    changes = [
        Change("optimizer._target_", "miniclip.optim.SAM", "torch.optim.AdamW"),
        Change("optimizer.rho", 0.05, "not set"),
        Change("seed", 0, 1),
    ]
    with pytest.raises(UserError) as caught:
        check_changes(changes, Path("last.pt"))
    assert "optimizer._target_=torch.optim.AdamW" in str(caught.value) and "seed=1" in str(caught.value)
    assert "rho" not in str(caught.value)


def test_a_setting_of_a_later_version_counts_when_it_is_set() -> None:
    theirs = {"trainer": {"batch_size": 8}}
    ours = {"trainer": {"batch_size": 8, "micro_batch_size": None}}
    assert changed_settings(theirs, ours) == []
    ours["trainer"]["micro_batch_size"] = 4
    (change,) = changed_settings(theirs, ours)
    assert change.is_applied
    assert str(change) == "trainer.micro_batch_size=4 (the checkpoint has not set)"


def test_what_a_trained_weight_began_with_cannot_change() -> None:
    assert not Change("loss.initial_bias", -10.0, -3.0).is_applied
    assert Change("loss.label_smoothing", 0.0, 0.1).is_applied


@pytest.mark.parametrize(
    ("setting", "theirs", "ours", "is_applied"),
    [
        ("momentum", 0, 0.9, False),
        ("momentum", "not set", 0.9, False),
        ("momentum", 0.9, 0.8, True),
        ("momentum", 0.9, 0, True),
        ("amsgrad", False, True, False),
        ("amsgrad", True, False, True),
        ("centered", "not set", True, False),
    ],
)
def test_what_lacks_a_state_cannot_be_turned_on(
    setting: str, theirs: object, ours: object, is_applied: bool
) -> None:
    assert Change(f"optimizer.base_optimizer.{setting}", theirs, ours).is_applied == is_applied


@pytest.mark.parametrize(
    ("theirs", "ours", "is_told"),
    [("none", "disk", True), ("disk", "memory", False), ("features", "disk", True), (None, "none", False)],
)
def test_a_cache_that_shrinks_images_is_a_change(theirs: str | None, ours: str, is_told: bool) -> None:
    configs = [{"data": {"cache": cache}} for cache in (theirs, ours)]
    changes = changed_settings(*configs, is_same_data=True)
    assert [change.setting for change in changes if change.is_applied] == ["data.cache"] * is_told
