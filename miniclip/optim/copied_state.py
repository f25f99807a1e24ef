"""What a copy or a pickle of an optimizer keeps of it."""

from typing import Any

from torch.optim import Optimizer

NOT_COPIED = ("step", "_forgets_skipped_state", "_keeps_memory_order")
"""What a scheduler puts over `step`, and marks of hooks."""


def copied_state(optimizer: Optimizer) -> dict[str, Any]:
    """The attributes that copies and pickles keep: not the hooks, nor what a scheduler puts over `step`."""
    return {
        name: value
        for name, value in vars(optimizer).items()
        if name not in NOT_COPIED and not name.startswith("_optimizer_")
    }
