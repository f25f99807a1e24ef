"""Batch norms of a frozen image tower, folded into the convolutions before them."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

NUM_PROBES = 2
"""Images that go through a tower to see what follows what, and whether the copy gives the same."""

TOLERANCE = 1e-4
"""Largest difference between features, over the largest feature, that is rounding."""


def with_folded_batch_norms(tower: Any, image_size: int) -> Any:
    """A copy of a tower that gives the same features up to rounding, with fewer passes over them.

    Which batch norm reads which convolution is seen in a run: most of timm's towers cannot be traced by
    torch.fx, and torch's own `fuse` knows neither their norms nor `SmallMapConv2d`.

    Args:
        tower: an image tower in evaluation mode; it stays as it is.
        image_size: pixels, of the images that it will see.

    Returns:
        the copy; the tower itself where no batch norm follows a convolution, or where the copy's features
        differ, as those of a convolution that normalizes its weights or is used in several places.
    """
    probes = _probes(image_size).to(next(tower.parameters()).device)
    expected, pairs = _watched(tower, probes)
    if not pairs:
        return tower

    folded = copy.deepcopy(tower)
    for conv_name, norm_name in pairs:
        norm = folded.get_submodule(norm_name)
        folded.set_submodule(conv_name, fuse_conv_bn_eval(folded.get_submodule(conv_name), norm))
        # timm's batch norms hold the activation that comes next, torch's hold nothing
        folded.set_submodule(norm_name, nn.Sequential(*norm.children()))

    with torch.no_grad():
        difference = (folded.features(probes) - expected).abs().max()
    return folded if difference <= TOLERANCE * expected.abs().max() else tower


def _probes(image_size: int) -> Tensor:
    """Noise as images, `(NUM_PROBES, 3, image_size, image_size)`, which leaves the seeds alone."""
    noise = torch.Generator("cpu").manual_seed(0)
    images = torch.randn(NUM_PROBES, 3, image_size, image_size, generator=noise)
    return images.to(memory_format=torch.channels_last)


@torch.no_grad()
def _watched(tower: Any, probes: Tensor) -> tuple[Tensor, list[tuple[str, str]]]:
    """A tower's features, and the names of each convolution and the batch norm that reads its output."""
    pairs: list[tuple[str, str]] = []
    hooks = []

    def sign(name: str) -> Any:
        return lambda conv, inputs, output: setattr(output, "conv_name", name)

    def read(name: str) -> Any:
        def hook(norm: nn.Module, inputs: tuple[Tensor]) -> None:
            conv_name = getattr(inputs[0], "conv_name", None)
            if conv_name is not None:
                pairs.append((conv_name, name))

        return hook

    for name, module in tower.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(sign(name)))
        elif isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            hooks.append(module.register_forward_pre_hook(read(name)))

    try:
        return tower.features(probes), pairs
    finally:
        for hook in hooks:
            hook.remove()
