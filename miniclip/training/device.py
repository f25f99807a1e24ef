"""The device that a setting names."""

import os

import torch

from miniclip.errors import SettingError, counted

DEVICES = "must be auto, cpu, mps, or cuda, cuda:1 and so on"


def find_device(name: str, *, setting: str = "device") -> torch.device:
    """The device a setting names; "auto" is CUDA if there is one, else the CPU.

    Args:
        setting: how the user names it: a command has the option --device.

    Raises:
        SettingError: when torch knows no such device or finds none here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    # of several processes each has its own; a launcher may show each no more than that one
    if name == "cuda" and "LOCAL_RANK" in os.environ and torch.cuda.device_count() > 1:
        name = f"cuda:{os.environ['LOCAL_RANK']}"

    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingError(setting, name, DEVICES) from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise SettingError(setting, name, DEVICES)

    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SettingError(setting, name, "torch finds no MPS device here; use auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        allowed = f"torch finds {counted(found, 'CUDA device')} here; use auto or cpu"
        raise SettingError(setting, name, allowed)
    return device


def take_gpu(device: torch.device) -> None:
    """Have all that torch does on "cuda" from here on, streams and random numbers too, done on this GPU."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
