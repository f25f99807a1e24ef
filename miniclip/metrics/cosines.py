"""Cosines of features, with all digits."""

import torch
from torch import Tensor

from miniclip.optim.norms import precise


def cosines_of(a: Tensor, b: Tensor) -> Tensor:
    """`(N, D), (M, D)`, of length 1, `-> (N, M)`, at least float32, whatever their type and an autocast."""
    with torch.autocast(a.device.type, enabled=False):
        return precise(a) @ precise(b).T
