"""The random generators, to run a pass again with the dropout of another."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Randomness:
    """State of torch's generators at the time this was made, on the CPU and on all devices of a model.

    Args:
        tensors: the model's parameters; their devices are where it draws.
    """

    def __init__(self, tensors: Iterable[Tensor]):
        devices = {tensor.device for tensor in tensors if tensor.device.type not in ("cpu", "meta")}
        self._cpu_state = torch.get_rng_state()
        self._states = {device: _state_of(device) for device in devices}

    def restore(self) -> None:
        """Put the generators back to where they stood."""
        torch.set_rng_state(self._cpu_state)
        for device, state in self._states.items():
            _set_state(device, state)


def _state_of(device: torch.device) -> Tensor:
    if device.type == "mps":  # the one that takes no device
        return torch.mps.get_rng_state()
    return torch.get_device_module(device).get_rng_state(device)


def _set_state(device: torch.device, state: Tensor) -> None:
    if device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)
