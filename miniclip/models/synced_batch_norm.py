"""Batch norm over the batch of all processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from miniclip.distributed import World
from miniclip.errors import SettingError


@contextmanager
def synced_batch_norms(model: nn.Module, world: World, wanted: bool) -> Iterator[None]:
    """Have every batch norm of a model, inside the context, take mean and variance of all processes' rows.

    Names and states stay what they are. torch's own nn.SyncBatchNorm has no form for a CPU.

    Args:
        wanted: false changes nothing.

    Raises:
        SettingError: when a batch norm computes something else besides, as timm's with an activation do.
    """
    modules = dict(model.named_modules()) if wanted else {}
    norms = {name: module for name, module in modules.items() if isinstance(module, _BatchNorm)}
    for name, norm in norms.items():
        if type(norm) is not nn.BatchNorm2d:
            allowed = (
                f"is not known for {name}, a {type(norm).__name__}: take false, or another image tower"
            )
            raise SettingError("sync_batch_norm", True, allowed)

    for norm in norms.values():
        norm.__class__, norm.world = SyncedBatchNorm2d, world  # type: ignore[assignment]
    try:
        yield
    finally:
        for norm in norms.values():
            norm.__class__ = nn.BatchNorm2d


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """A `BatchNorm2d` whose mean and variance in training are those of all processes' rows."""

    world: World

    def forward(self, input: Tensor) -> Tensor:
        """`(B, C, H, W)` of this process; every process has as many."""
        if not self.training:
            return super().forward(input)

        with torch.autocast(input.device.type, enabled=False):
            features = input.float()
            own_var, own_mean = torch.var_mean(features, dim=(0, 2, 3), correction=0)  # (C,)
            means, variances = self.world.gather(torch.stack([own_mean, own_var])[None]).unbind(1)
            mean = means.mean(dim=0)
            var = (variances + (means - mean).square()).mean(dim=0)
            self._track(mean.detach(), var.detach(), count=input.numel() // len(mean) * self.world.size)

            scale = (var + self.eps).rsqrt()
            if self.affine:
                scale = scale * self.weight
            shift = -mean * scale + (self.bias if self.affine else 0)
            return (features * _per_channel(scale) + _per_channel(shift)).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, *, count: int) -> None:
        """Move the running statistics as `nn.BatchNorm2d` does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        weight: Any = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(var * (count / (count - 1)), weight)


def _per_channel(values: Tensor) -> Tensor:
    """`(C,) -> (C, 1, 1)`."""
    return values[:, None, None]
