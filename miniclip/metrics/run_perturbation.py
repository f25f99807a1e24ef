"""The perturbation that a run's own SAM would make at the weights it ended with."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from miniclip.errors import SettingError
from miniclip.metrics.sharpness import LossSurface
from miniclip.optim import SAM, parameter_groups
from miniclip.signature import described, fits, signature_of

ALONG_GRADIENT = ("miniclip.optim.SAM", "miniclip.optim.GSAM", "miniclip.optim.LookSAM")
"""Names of optimizers that perturb along the gradient, unless they have another direction."""

GRADIENT = {"_target_": "miniclip.optim.Gradient"}

SHAPING = ("per_layer", "adaptive", "perturb", "norms_only")
"""Settings of SAM that say how a gradient becomes a perturbation, but for its length."""


def run_perturbation(
    surface: LossSurface, gradient: Sequence[Tensor], optimizer: dict[str, Any]
) -> list[Tensor] | None:
    """e as the SAM of a run makes it of a gradient: one tensor for each of the surface's.

    Its length is 1, or with `adaptive` and `per_layer` what these make of a rho of 1. None where the run
    has no SAM, or one whose direction is made of more than this gradient (`vasso`, `fsam`, `msam`,
    `async_sam`, `random_sam`).

    Args:
        optimizer: its settings in the run's config, which may be a stranger's: nothing is called by a name
            in them.

    Raises:
        SettingError: when one of them is nothing that SAM takes.
    """
    is_along_gradient = optimizer.get("direction", GRADIENT) == GRADIENT
    if optimizer.get("_target_") not in ALONG_GRADIENT or not is_along_gradient or not optimizer.get("rho"):
        return None

    sam = SAM(
        parameter_groups(surface.model),
        partial(torch.optim.SGD, lr=0.0),
        rho=1.0,
        measure_every=None,
        model=surface.model,
        **_shaping(optimizer),
    )
    weights = [p.detach().clone() for p in surface.params]
    for p, part in zip(surface.params, gradient, strict=True):
        p.grad = part.clone()  # which SAM may overwrite
    try:
        sam.ascend()
        return [p.detach() - w for p, w in zip(surface.params, weights, strict=True)]
    finally:
        sam.descend()
        sam.zero_grad()


def _shaping(optimizer: dict[str, Any]) -> dict[str, Any]:
    """The settings that say how a gradient becomes a perturbation, held against SAM's signature."""
    _, hints = signature_of(SAM)
    settings = {name: optimizer[name] for name in SHAPING if name in optimizer}
    for name, value in settings.items():
        if not fits(value, hints[name]):
            raise SettingError(f"optimizer.{name}", value, f"must be {described(hints[name])}")
    return settings
