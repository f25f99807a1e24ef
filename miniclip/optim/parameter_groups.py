"""Groups of parameters: which decay, which SAM may perturb, and which learn slower."""

from collections import defaultdict
from typing import Any

from torch import nn

SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"weight_decay": 0.0},
    {"weight_decay": 0.0, "perturb": False},
)
"""Of the three kinds of groups: weights; biases and norms; temperature and loss."""

UNPERTURBED = 2
"""The kind of the temperature's and the loss's own parameters."""


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Three groups: weights; biases and norms without decay; temperature and loss without decay or SAM.

    A parameter of fewer than two dimensions is a bias, a norm's gain or a temperature. Frozen
    parameters belong to no group. Parts with a learning rate of their own (a module's `lr_factors`, by the
    name of its child) have groups of their own, behind the others.

    Returns:
        groups for a torch optimizer, with the parameters' names as `param_names`; `perturb: False` is read
        by `miniclip.optim.SAM`, `lr_factor` by `scale_learning_rates`.
    """
    unperturbed: set[nn.Parameter] = set()
    for name in ("temperature", "loss"):
        part = getattr(model, name, None)
        unperturbed |= set() if part is None else set(part.parameters())

    factors = _lr_factors(model)

    groups: dict[tuple[float, int], dict[str, nn.Parameter]] = defaultdict(dict)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = UNPERTURBED if parameter in unperturbed else int(parameter.ndim < 2)
            groups[factors.get(parameter, 1.0), kind][name] = parameter

    # those of the full learning rate first, whose rate is the one that is logged
    in_order = sorted(groups, key=lambda key: (key[0] != 1, *key))
    return [_group(groups[factor, kind], factor, kind) for factor, kind in in_order]


def _lr_factors(model: nn.Module) -> dict[nn.Parameter, float]:
    """The factor of each parameter that some module's `lr_factors` names."""
    factors: dict[nn.Parameter, float] = {}
    for module in model.modules():
        for child, factor in getattr(module, "lr_factors", {}).items():
            for parameter in module.get_submodule(child).parameters():
                factors[parameter] = factor
    return factors


def _group(parameters: dict[str, nn.Parameter], factor: float, kind: int) -> dict[str, Any]:
    group = {"params": [*parameters.values()], "param_names": [*parameters], **SETTINGS[kind]}
    return group if factor == 1 else {**group, "lr_factor": factor}
