"""The factor before the softmax: `logit_scale` = 1 / temperature, positive and at most `MAX_SCALE`.

A temperature is called as `temperature(variance ()) -> logit_scale ()`, float32, with the variance of all
B x B cosines of the batch. The exponential and the clamp happen here and nowhere else.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from miniclip.errors import at_least, in_range, one_of

MAX_SCALE = 100.0
"""CLIP's clamp (Radford et al. 2021, section 2.5)."""


class Temperature(nn.Module):
    """What every temperature is: `variance () -> logit_scale ()`, float32.

    Attributes:
        reads_variance: whether it reads the variance it is called with; where not, that may be None.
        reuses_variance: whether it reads, in a second pass over a batch, the variance of the first.
    """

    reuses_variance: bool = False

    @property
    def reads_variance(self) -> bool:
        return False


class DynamicTemperature(Temperature):
    """A small MLP from the spread of the batch's similarities to the log of the scale.

    In training it reads the variance of all B x B cosine similarities of the batch, without passing a
    gradient back into them; in evaluation it reads a running average of that variance, so that a score
    does not depend on what else is in the batch. It starts at `initial_scale` whatever the variance.

    Args:
        initial_scale: logit_scale before the first step.
        hidden: width of the MLP.
        momentum: weight of the newest variance in the running average.
        sam: what SAM's second pass reads: "recompute" takes the variance at the perturbed weights,
            "reuse" that of the first pass, so that both passes have one scale.
    """

    running_variance: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        *,
        initial_scale: float,
        hidden: int,
        momentum: float,
        sam: Literal["recompute", "reuse"] = "recompute",
    ):
        super().__init__()
        _check_scale(initial_scale)
        at_least("hidden", hidden, 1)
        in_range("momentum", momentum, 0, 1, includes_low=False)
        one_of("sam", sam, ("recompute", "reuse"))

        self.momentum = momentum
        self.sam = sam
        self.reuses_variance = sam == "reuse"
        self.register_buffer("running_variance", torch.tensor(0.0))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

        # weights of zero: the scale is the initial one whatever the variance
        output = nn.Linear(hidden, 1)
        nn.init.zeros_(output.weight)
        nn.init.constant_(output.bias, math.log(initial_scale))
        self.mlp = nn.Sequential(nn.Linear(1, hidden), nn.GELU(), output)

    @property
    def reads_variance(self) -> bool:
        return self.training

    def forward(self, variance: Tensor | None) -> Tensor:
        if self.training:
            assert variance is not None
            self._track(variance)
        else:
            variance = self.running_variance

        # variances of cosines span decades (1e-4 ... 1e-1), their logarithm a few units
        feature = torch.log(variance + 1e-6).reshape(1)  # (1,)
        with torch.autocast(variance.device.type, enabled=False):
            return _to_scale(self.mlp(feature).squeeze())

    @torch.no_grad()
    def _track(self, variance: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        # a plain mean at first, so that the start value 0 leaves no trace
        weight = torch.clamp(1 / self.num_batches_tracked, min=self.momentum)
        self.running_variance.lerp_(variance, weight.to(variance.dtype))


class LearnedTemperature(Temperature):
    """CLIP's own: one learned number, the log of the scale."""

    def __init__(self, *, initial_scale: float):
        super().__init__()
        _check_scale(initial_scale)
        self.log_scale = nn.Parameter(torch.tensor(math.log(initial_scale)))

    def forward(self, variance: Tensor | None) -> Tensor:
        return _to_scale(self.log_scale)


class FixedTemperature(Temperature):
    """A constant scale."""

    log_scale: Tensor

    def __init__(self, *, initial_scale: float):
        super().__init__()
        _check_scale(initial_scale)
        self.register_buffer("log_scale", torch.tensor(math.log(initial_scale)))

    def forward(self, variance: Tensor | None) -> Tensor:
        return _to_scale(self.log_scale)


def _to_scale(log_scale: Tensor) -> Tensor:
    return _BoundedExp.apply(log_scale.float())


class _BoundedExp(torch.autograd.Function):
    """`exp(log_scale ()).clamp(max=MAX_SCALE)`, out of whose saturation a gradient leads back.

    A clamp's own gradient is zero there: a scale that passes the maximum once stays there. Here a gradient
    passes that lowers the scale, none that would raise it further.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(log_scale: Tensor) -> Tensor:
        return log_scale.exp().clamp(max=MAX_SCALE)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        log_scale, scale = ctx.saved_tensors
        # a descent step goes against the gradient: where it is positive the scale falls
        may_move = (log_scale.exp() <= MAX_SCALE) | (grad > 0)
        return torch.where(may_move, grad * scale, 0)


def _check_scale(initial_scale: float) -> None:
    in_range("initial_scale", initial_scale, 0, MAX_SCALE, includes_low=False)
