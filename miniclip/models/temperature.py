"""The factor before the softmax: `logit_scale` = 1 / temperature, positive and at most `MAX_SCALE`.

A temperature is called as `temperature(similarity (B, B)) -> logit_scale ()`, float32. The exponential
and the clamp happen here and nowhere else.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from miniclip.errors import SettingError

MAX_SCALE = 100.0
"""CLIP's clamp (Radford et al. 2021, section 2.5)."""


class Temperature(nn.Module):
    """What every temperature is: `similarity (B, B) -> logit_scale ()`.

    Attributes:
        reuses_similarity: whether it reads, in a second pass over a batch, the similarities of the first.
    """

    reuses_similarity: bool = False


class DynamicTemperature(Temperature):
    """A small MLP from the spread of the batch's similarities to the log of the scale.

    In training it reads the variance of all B x B cosine similarities of the batch, without passing a
    gradient back into them; in evaluation it reads a running average of that variance, so that a score
    does not depend on what else is in the batch. It starts at `initial_scale` whatever the variance.

    Args:
        initial_scale: logit_scale before the first update.
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
        if hidden < 1:
            raise SettingError("hidden", hidden, "must be at least 1")
        if not 0 < momentum <= 1:
            raise SettingError("momentum", momentum, "must lie in 0 < momentum <= 1")
        if sam not in ("recompute", "reuse"):
            raise SettingError("sam", sam, "must be recompute or reuse")
        self.momentum = momentum
        self.sam = sam
        self.reuses_similarity = sam == "reuse"
        self.register_buffer("running_variance", torch.tensor(0.0))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        output = nn.Linear(hidden, 1)
        nn.init.zeros_(output.weight)
        nn.init.constant_(output.bias, math.log(initial_scale))
        self.mlp = nn.Sequential(nn.Linear(1, hidden), nn.GELU(), output)

    def forward(self, similarity: Tensor) -> Tensor:
        if self.training:
            variance = similarity.detach().float().var(correction=0)
            self._track(variance)
        else:
            variance = self.running_variance
        # variances of cosines span decades (1e-4 ... 1e-1), their logarithm a few units
        feature = torch.log(variance + 1e-6).reshape(1)
        with torch.autocast(similarity.device.type, enabled=False):
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

    def forward(self, similarity: Tensor) -> Tensor:
        return _to_scale(self.log_scale)


class FixedTemperature(Temperature):
    """A constant scale."""

    log_scale: Tensor

    def __init__(self, *, initial_scale: float):
        super().__init__()
        _check_scale(initial_scale)
        self.register_buffer("log_scale", torch.tensor(math.log(initial_scale)))

    def forward(self, similarity: Tensor) -> Tensor:
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
    if not 0 < initial_scale <= MAX_SCALE:
        raise SettingError("initial_scale", initial_scale, f"must lie in 0 < scale <= {MAX_SCALE:g}")
