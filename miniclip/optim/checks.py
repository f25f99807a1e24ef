"""Checks of what an optimizer is made of."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from miniclip.errors import SettingError, at_least


def check_group(group: dict[str, Any]) -> None:
    """Raise a SettingError where a number of a parameter group is not finite, or its rho no length."""
    for setting, value in group.items():
        numbers = value if isinstance(value, tuple | list) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise SettingError(setting, value, "must be finite")
    if "rho" in group:
        check_rho(group["rho"])


def check_rho(rho: float) -> None:
    """Raise a SettingError where a length of the perturbation is negative or not finite."""
    at_least("rho", rho, 0, hint=" and finite (0 turns the perturbation off)")


def check_list(setting: str, values: Sequence[str] | None) -> None:
    """Raise a SettingError where a text stands in place of a list of texts, and would be its letters."""
    if isinstance(values, str):
        raise SettingError(setting, values, f"must be a list, as [{values!r}]")


def require_plain_step(base: Optimizer) -> None:
    """Refuse a base optimizer that evaluates the loss itself."""
    closure = inspect.signature(type(base).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise SettingError(
            "base",
            type(base).__name__,
            "evaluates the loss itself, which is SAM's part; take AdamW or SGD",
        )
