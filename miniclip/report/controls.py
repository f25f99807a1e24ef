"""The control that each group of a report is held against."""

import shlex
from collections.abc import Sequence
from typing import Any

from miniclip.errors import UserError
from miniclip.report.groups import Group, as_text, is_number


def controls_of(groups: Sequence[Group], wanted: str | None) -> list[Group]:
    """The control of each group, in the same order; a control is its own.

    Where several groups are controls, of several data sets or budgets say, each of the others is held
    against the one that is trained most alike: first in all but the optimizer, then in that, too.

    Args:
        wanted: "SETTING=VALUE" of the controls; None are those that train without a perturbation, or the
            first group where none or all do.

    Raises:
        UserError: when no group has such a setting.
    """
    if wanted is not None:
        controls = _named(groups, wanted)
    else:
        controls = [group for group in groups if _trains_without_perturbation(group)]

    if len(controls) in (0, len(groups)):
        controls = [groups[0]]
    return [_most_alike(group, controls) for group in groups]


def _trains_without_perturbation(group: Group) -> bool:
    # SAM with rho 0 is its base optimizer, bit for bit
    optimizer = str(group.settings.get("optimizer._target_"))
    return group.settings.get("optimizer.rho") == 0 or "AdamW" in optimizer


def _named(groups: Sequence[Group], wanted: str) -> list[Group]:
    """The groups with a setting, "optimizer.rho=0" say."""
    key, _, value = wanted.partition("=")
    named = [group for group in groups if key in group.settings and _is_typed(group.settings[key], value)]
    if named:
        return named

    known = {f"{setting}={as_text(value)}" for group in groups for setting, value in group.settings.items()}
    if not known:
        raise UserError(f"--control {shlex.quote(wanted)}: there is one group alone; leave it out.")
    choices = ", ".join(shlex.quote(choice) for choice in sorted(known))
    raise UserError(f"--control {shlex.quote(wanted)} is none of the groups; they differ in: {choices}")


def _is_typed(setting: Any, text: str) -> bool:
    """Whether a setting is what was typed; of numbers whether they are equal, as 0 and 0.0 are."""
    if as_text(setting) == text:
        return True
    try:
        return is_number(setting) and float(text) == setting
    except ValueError:
        return False


def _most_alike(group: Group, controls: Sequence[Group]) -> Group:
    """The control that shares the most settings; a control shares all of its own."""

    def num_shared(control: Group) -> tuple[int, int]:
        shared = [key for key, value in group.settings.items() if control.settings.get(key, ...) == value]
        return sum(not key.startswith("optimizer.") for key in shared), len(shared)

    return max(controls, key=num_shared)  # the first of several
