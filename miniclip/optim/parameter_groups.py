"""Which parameters decay, which SAM may perturb, and which learn slower."""

from collections import defaultdict
from typing import Any

from torch import nn


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Three groups: weights; biases and norms without decay; the temperature without decay or SAM.

    A parameter of fewer than two dimensions is a bias, a norm's gain or a temperature. Frozen
    parameters belong to no group. Parts with a learning rate of their own (a module's `lr_factors`, by the
    name of its child) have groups of their own, behind the others.

    Returns:
        groups for a torch optimizer; `perturb: False` is read by `miniclip.optim.SAM`, `lr_factor` by
        `scale_learning_rates`.
    """
    temperature = getattr(model, "temperature", None)
    in_temperature = set() if temperature is None else set(temperature.parameters())
    factors = {
        parameter: factor
        for module in model.modules()
        for child, factor in getattr(module, "lr_factors", {}).items()
        for parameter in module.get_submodule(child).parameters()
    }
    groups: dict[tuple[float, int], list[nn.Parameter]] = defaultdict(list)
    for parameter in model.parameters():
        if parameter.requires_grad:
            kind = 2 if parameter in in_temperature else int(parameter.ndim < 2)
            groups[factors.get(parameter, 1.0), kind].append(parameter)
    settings: tuple[dict[str, Any], ...] = (
        {},
        {"weight_decay": 0.0},
        {"weight_decay": 0.0, "perturb": False},
    )
    return [
        {"params": groups[factor, kind], **settings[kind], **({} if factor == 1 else {"lr_factor": factor})}
        for factor, kind in sorted(groups, key=lambda key: (key[0] != 1, *key))
    ]
