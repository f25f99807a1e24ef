"""Steps that an optimizer's own kernel skips, because a gradient is not finite."""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer


def forget_skipped_state(optimizer: Optimizer) -> None:
    """Let a step that was skipped leave no state behind, in whichever optimizer.

    A fused kernel told of an overflow (`found_inf`) returns at once, but by then the optimizer has made
    its state. torch's SGD makes its momenta without values and fills them in the kernel: a first step
    that is skipped leaves whatever was in that memory, and the next one takes it for momenta. So
    what a skipped step made is taken away again. The device is asked only in steps that made something.
    """
    if getattr(optimizer, "_forgets_skipped_state", False):
        return

    without_state: list[Tensor] = []

    def note_those_without_state(optimizer: Optimizer, *arguments: Any) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        without_state[:] = [p for p in params if not optimizer.state.get(p)]

    def forget(optimizer: Optimizer, *arguments: Any) -> None:
        found_inf = getattr(optimizer, "found_inf", None)
        made = [p for p in without_state if optimizer.state.get(p)]
        if made and found_inf is not None and found_inf.item():
            for p in made:
                del optimizer.state[p]

    optimizer.register_step_pre_hook(note_those_without_state)
    optimizer.register_step_post_hook(forget)
    optimizer._forgets_skipped_state = True  # type: ignore[attr-defined]
