"""Parameters of a model, chosen by kind of layer and by name."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from miniclip.errors import SettingError
from miniclip.optim.checks import check_list
from miniclip.optim.norm_layers import NORM_LAYERS


def selected_params(
    model: nn.Module | None, *, norms_only: bool, perturb: Sequence[str] | None
) -> set[Tensor] | None:
    """The parameters that may be perturbed; None where these are all.

    Args:
        norms_only: gains and biases of norm layers only.
        perturb: names of modules or parameters, or patterns of parameters' names, such as
            "text_encoder", "image_encoder.backbone.layer4", "*.bias".

    Raises:
        SettingError: when there is no model to know names from, or when nothing is found.
    """
    check_list("perturb", perturb)
    for setting, value in (("norms_only", norms_only), ("perturb", perturb)):
        if value and model is None:
            raise SettingError(setting, value, "needs the model, to know its layers")
    if model is None or not (norms_only or perturb is not None):
        return None

    chosen: set[Tensor] = set(model.parameters())
    if norms_only:
        chosen &= _of_norms(model)
    if perturb is not None:
        chosen &= named_params(model, perturb)
    if not any(p.requires_grad for p in chosen):
        _refuse(norms_only=norms_only, perturb=perturb)
    return chosen


def _refuse(*, norms_only: bool, perturb: Sequence[str] | None) -> None:
    if norms_only:
        kinds = ", ".join(layer.__name__.lstrip("_") for layer in NORM_LAYERS)
        where = "in the model" if perturb is None else f"in perturb={list(perturb)}"
        raise SettingError(
            "norms_only", True, f"finds no norm layer to perturb {where} (a kind of {kinds})"
        )
    raise SettingError("perturb", perturb, "must name something that is trained")


def _of_norms(model: nn.Module) -> set[Tensor]:
    """Gains and biases of the norm layers."""
    return {p for module in model.modules() if isinstance(module, NORM_LAYERS) for p in module.parameters()}


def named_params(model: nn.Module, patterns: Sequence[str]) -> set[Tensor]:
    """The parameters of these names, or below modules of these names.

    Raises:
        SettingError: when one of them names nothing.
    """
    named = list(model.named_parameters(remove_duplicate=False))

    found: set[Tensor] = set()
    for pattern in patterns:
        matching = {
            p for name, p in named if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
        }
        if not matching:
            parts = ", ".join(name for name, child in model.named_children() if list(child.parameters()))
            raise SettingError("perturb", pattern, f"names no parameter of the model (parts: {parts})")
        found |= matching
    return found
