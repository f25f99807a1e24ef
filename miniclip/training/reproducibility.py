"""Seeds and random states."""

import gc
import random
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def release_memory() -> None:
    """Give back the memory of a run, and measure peaks anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)


class RandomState:
    """Every global generator of this process, as a part of a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """The generators' states as tensors and plain data."""
        return {
            "python": random.getstate(),
            "numpy": _plain(np.random.get_state()),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put every generator where `state_dict` found it; those of GPUs where there are as many."""
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))
        np.random.set_state(state["numpy"])

        torch.set_rng_state(state["torch"])
        if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])


def _plain(numpy_state: Any) -> tuple:
    name, keys, position, has_gauss, cached_gaussian = numpy_state
    return name, keys.tolist(), position, has_gauss, cached_gaussian
