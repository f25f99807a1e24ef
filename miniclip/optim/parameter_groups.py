"""Which parameters decay and which SAM may perturb."""

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Three groups: weights; biases and norms without decay; the temperature without decay or SAM.

    A parameter of fewer than two dimensions is a bias, a norm's gain or a temperature. Frozen
    parameters belong to no group.

    Returns:
        groups for a torch optimizer; `perturb: False` is read by `miniclip.optim.SAM`.
    """
    temperature = getattr(model, "temperature", None)
    in_temperature = set() if temperature is None else set(temperature.parameters())
    weights, no_decay, scale = [], [], []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if parameter in in_temperature:
            scale.append(parameter)
        elif parameter.ndim < 2:
            no_decay.append(parameter)
        else:
            weights.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": weights},
        {"params": no_decay, "weight_decay": 0.0},
        {"params": scale, "weight_decay": 0.0, "perturb": False},
    ]
    return [group for group in groups if group["params"]]
