"""Checks of settings: what passes, and what the error says of what does not; the first line of errors."""

import math
from collections.abc import Callable
from functools import partial

import pytest

from miniclip.distributed import LostProcess, _others_may_be_lost
from miniclip.errors import SettingError, above_zero, at_least, first_line, in_range, one_of

FRACTION = partial(in_range, "dropout", low=0, high=1, includes_high=False)
MOMENTUM = partial(in_range, "momentum", low=0, high=1, includes_low=False)


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (partial(at_least, "k", least=1), 1),
        (partial(above_zero, "lr"), 1e-9),
        (partial(in_range, "k", low=1, high=24), 1),
        (partial(in_range, "k", low=1, high=24), 24),
        (FRACTION, 0.0),
        (MOMENTUM, 1.0),
        (partial(one_of, "crop", choices=["squash", "center"]), "center"),
    ],
)
def test_an_allowed_value_passes(check: Callable[..., None], value: object) -> None:
    check(value=value)


@pytest.mark.parametrize(
    ("check", "value", "allowed"),
    [
        (partial(at_least, "k", least=1), 0, "must be at least 1"),
        (partial(at_least, "rho", least=0, hint=" and finite"), math.inf, "must be at least 0 and finite"),
        (partial(at_least, "rho", least=0), math.nan, "must be at least 0"),
        (partial(above_zero, "lr", hint="; null is off"), 0.0, "must be above 0; null is off"),
        (partial(above_zero, "lr"), math.nan, "must be above 0"),
        (partial(in_range, "k", low=1, high=24), 25, "must lie between 1 and 24"),
        (
            partial(in_range, "k", low=1, high=24, high_is="context_length"),
            0,
            "must lie between 1 and context_length=24",
        ),
        (FRACTION, 1.0, "must lie in 0 <= dropout < 1"),
        (FRACTION, math.nan, "must lie in 0 <= dropout < 1"),
        (MOMENTUM, 0.0, "must lie in 0 < momentum <= 1"),
        (partial(one_of, "crop", choices=["squash", "center"]), "whole", "must be squash or center"),
        (partial(one_of, "crop", choices=["all", "last", "none"]), 1, "must be all, last or none"),
    ],
)
def test_the_error_says_what_is_allowed(check: Callable[..., None], value: object, allowed: str) -> None:
    with pytest.raises(SettingError) as caught:
        check(value=value)
    assert (caught.value.value is value) and caught.value.allowed == allowed


@pytest.mark.parametrize(("value", "typed"), [(None, "null"), (True, "true"), (0.5, "0.5"), ("a b", "a b")])
def test_the_value_is_told_as_it_is_typed(value: object, typed: str) -> None:
    assert str(SettingError("k", value, "must be more")) == f"k={typed}: must be more. Change it with k=..."


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_error_without_a_message_is_told_by_its_class(empty: str) -> None:
    assert first_line(RuntimeError(empty)) == "RuntimeError"
    assert first_line(ValueError("\n first\nsecond\n")) == "first"
    with pytest.raises(LostProcess, match=r"tells why\. \(RuntimeError\)"), _others_may_be_lost():
        raise RuntimeError(empty)
