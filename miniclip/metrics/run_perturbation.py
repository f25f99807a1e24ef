"""The perturbation that a run's own SAM would make at the weights it ended with."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from miniclip.errors import SettingError
from miniclip.metrics.sharpness import LossSurface
from miniclip.optim import SAM, parameter_groups
from miniclip.signature import described, fits, signature_of

log = logging.getLogger(__name__)

SAM_TARGET = "miniclip.optim.SAM"
"""What names SAM in the config of a run."""

ALONG_GRADIENT = {"_target_": "miniclip.optim.Gradient"}
"""Its direction there, unless another one was chosen."""

SHAPING = ("per_layer", "adaptive", "perturb", "norms_only")
"""Settings of SAM that say how a gradient becomes a perturbation, but for its length."""


def run_perturbation(
    surface: LossSurface, gradient: Sequence[Tensor], optimizer: dict[str, Any]
) -> list[Tensor] | None:
    """e as the SAM of a run makes it of a gradient: one tensor for each of the surface's.

    Its length is 1, or with `adaptive` and `per_layer` what these make of a rho of 1. None where the run
    has no SAM, or one whose direction is made of more than this gradient (`vasso`, `fsam`, `msam`,
    `async_sam`, `random_sam`), and where its settings do not suit its model, which is told.

    Args:
        optimizer: its settings in the run's config, which may be a stranger's: nothing is called by a name
            in them.
    """
    is_along_gradient = optimizer.get("direction", ALONG_GRADIENT) == ALONG_GRADIENT
    if optimizer.get("_target_") != SAM_TARGET or not is_along_gradient or not optimizer.get("rho"):
        return None

    try:
        sam = _sam_of(surface, optimizer)
    except SettingError as error:
        log.warning(
            "The perturbation of the run's SAM is not measured: its %s=%s %s.",
            error.setting,
            error.value,
            error.allowed,
        )
        return None
    weights = [p.detach().clone() for p in surface.params]
    for p, part in zip(surface.params, gradient, strict=True):
        p.grad = part.clone()  # which SAM may overwrite
    try:
        sam.ascend()
        return [p.detach() - w for p, w in zip(surface.params, weights, strict=True)]
    finally:
        sam.descend()
        sam.zero_grad()


def _sam_of(surface: LossSurface, optimizer: dict[str, Any]) -> SAM:
    """A SAM that perturbs as the run's, once its settings are held against SAM's signature."""
    _, hints = signature_of(SAM)
    settings = {name: optimizer[name] for name in SHAPING if name in optimizer}
    for name, value in settings.items():
        if not fits(value, hints[name]):
            raise SettingError(name, value, f"must be {described(hints[name])}")
    return SAM(
        parameter_groups(surface.model),
        partial(torch.optim.SGD, lr=0.0),
        rho=1.0,
        measure_every=None,
        model=surface.model,
        **settings,
    )
