"""Optimizers that run the passes of a step themselves: the protocol that training speaks.

SAM's family runs the forward and backward passes of a batch twice, a plain torch optimizer once. Training
hands either a closure and never asks which of them it has.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor
from torch.optim import Optimizer

from miniclip.errors import UserError

PassClosure = Callable[[int], Tensor]
"""Runs forward and backward over the batch, or over all batches of the step, adds to `.grad` and returns
the loss (). It is told which pass of the step it runs, from 0, and zeroes nothing."""

Closure = Callable[[], Tensor] | PassClosure
"""A closure as torch's optimizers take it, or one that is told which pass it runs."""


@runtime_checkable
class PassOptimizer(Protocol):
    """An optimizer that runs as many passes per step as it needs.

    Attributes:
        base_optimizer: the torch optimizer that moves the weights; a GradScaler unscales and steps it.
        fraction_done: fraction of the run that is over, told before each step.
        knows_its_passes: whether `num_passes` counts them, not only the most there can be.
        metrics: of the last step, tensors () on the device.
        host_metrics: of the last step, numbers that the host knows without asking the device.
    """

    fraction_done: float

    @property
    def knows_its_passes(self) -> bool: ...

    @property
    def base_optimizer(self) -> Optimizer: ...

    @property
    def reuses_feature_gradient(self) -> bool:
        """Whether passes after the first carry that one's gradient at the features back."""

    @property
    def perturbs_alone(self) -> bool:
        """Whether each of several processes perturbs its own weights along its own gradient."""

    @property
    def ascends_alone(self) -> bool:
        """Whether the pass that runs leads to a perturbation of this process alone, of several."""

    @property
    def metrics(self) -> Mapping[str, Tensor]: ...

    @property
    def host_metrics(self) -> Mapping[str, float]: ...

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...

    def backward(self, closure: PassClosure, *, loss_scale: float | Tensor = 1.0) -> Tensor:
        """Run the passes: `.grad` ends as the gradient to apply, the weights end as they were.

        Args:
            loss_scale: the factor on the closure's gradients; a tensor () is not waited for.

        Returns:
            the loss of the first pass, ().
        """

    def num_passes(self, steps: int, *, total: int | None = None) -> int:
        """Forward passes of the first steps of a run of a total of so many, by default of these alone."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class SinglePass:
    """A plain torch optimizer behind the protocol: one pass per step.

    Args:
        base_optimizer: any that takes its step from the gradients alone.
    """

    knows_its_passes = True
    reuses_feature_gradient = False
    perturbs_alone = False
    ascends_alone = False

    def __init__(self, base_optimizer: Optimizer):
        self.base_optimizer = base_optimizer
        self.fraction_done = 0.0
        self.metrics: Mapping[str, Tensor] = {}
        self.host_metrics: Mapping[str, float] = {}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.base_optimizer.param_groups

    def backward(self, closure: PassClosure, *, loss_scale: float | Tensor = 1.0) -> Tensor:
        """Zero the gradients and run the one pass; see `PassOptimizer.backward`."""
        self.base_optimizer.zero_grad()
        return run_pass(closure, 0)

    def num_passes(self, steps: int, *, total: int | None = None) -> int:
        return steps

    def state_dict(self) -> dict[str, Any]:
        """The state of the torch optimizer, as it is without the protocol."""
        return self.base_optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base_optimizer.load_state_dict(state_dict)


def as_pass_optimizer(optimizer: Optimizer) -> PassOptimizer:
    """An optimizer that speaks the protocol as it is; any other as a `SinglePass`.

    Raises:
        UserError: when it has passes of its own, but not all of the protocol.
    """
    if isinstance(optimizer, PassOptimizer):
        return optimizer
    if hasattr(optimizer, "num_passes"):
        members = {**PassOptimizer.__annotations__, **vars(PassOptimizer)}
        lacking = [name for name in members if name[0] != "_" and not hasattr(optimizer, name)]
        raise UserError(
            f"{type(optimizer).__name__} has num_passes, but not all of miniclip.optim.PassOptimizer; it "
            f"lacks {', '.join(lacking)}."
        )
    return SinglePass(optimizer)


def run_pass(closure: Closure, pass_number: int) -> Tensor:
    """Run one pass with gradients. Returns its loss, ().

    Raises:
        UserError: when the closure does not return a tensor.
    """
    with torch.enable_grad():
        if _is_told_its_pass(closure):
            loss = cast(PassClosure, closure)(pass_number)
        else:
            loss = cast(Callable[[], Tensor], closure)()

    if not isinstance(loss, Tensor):
        raise UserError(f"The closure must return its loss as a tensor, not {loss!r}.")
    return loss


def _is_told_its_pass(closure: Closure) -> bool:
    """Whether a closure needs an argument; torch's own closures have none, or defaults of their own."""
    try:
        parameters = inspect.signature(closure).parameters.values()
    except (TypeError, ValueError):  # written in C
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in positional and p.default is p.empty for p in parameters)
