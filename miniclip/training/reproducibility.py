"""Seeds, random states, and deterministic algorithms."""

import gc
import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

log = logging.getLogger(__name__)

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Environment variable that cuBLAS reads once; with workspaces of fixed sizes it repeats its sums."""

NOT_DETERMINISTIC = " does not have a deterministic implementation"
"""What torch's warning of an operator says after its name."""

NOT_DETERMINISTIC_CUBLAS = "it uses CuBLAS"
"""What torch's warning of a matrix product says whose workspace was chosen before."""


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_step(seed: int, *, rank: int, step: int) -> None:
    """Seed the dropout of one step of a process beside the main one, which draws on as it would alone.

    A function of the step, so that a resumed run draws the same without a state of each process.
    """
    torch.manual_seed((seed * 1_000_003 + step) * 1_009 + rank)


def release_memory() -> None:
    """Give back the memory of a run, and measure peaks anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Let torch take, inside the context, operators that give the same bits each time; see `Trainer`.

    An operator of which there is no such form runs as it is and is told once, by name. Everything is put
    back at the end, so that the next job of a sweep runs as it would alone.

    Args:
        wanted: false changes nothing.
    """
    if not wanted:
        yield
        return

    mode = torch.get_deterministic_debug_mode()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    workspace = os.environ.get(CUBLAS_WORKSPACE)

    os.environ.setdefault(CUBLAS_WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        with _told_by_name(), _attention_by_its_formula():
            yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        if workspace is None:
            os.environ.pop(CUBLAS_WORKSPACE, None)


def _attention_by_its_formula() -> AbstractContextManager[None]:
    """Keep attention on a GPU from its kernels: where torch only warns, they add up in any order."""
    if torch.cuda.is_available():
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


@contextmanager
def _told_by_name() -> Iterator[None]:
    """Turn torch's warnings of operators into one line each; other warnings are shown as ever."""
    told: set[str] = set()

    with warnings.catch_warnings():
        for part in (NOT_DETERMINISTIC, NOT_DETERMINISTIC_CUBLAS):
            warnings.filterwarnings("always", message=f"[\\s\\S]*{part}")
        show = warnings.showwarning

        def tell(message: Warning | str, *arguments: Any, **options: Any) -> None:
            operator = _operator(str(message))
            if operator is None:
                show(message, *arguments, **options)
            elif operator not in told:
                told.add(operator)
                text = "trainer.deterministic=true: torch has no deterministic form of %s; runs may differ."
                log.warning(text, operator)

        warnings.showwarning = tell
        yield


def _operator(message: str) -> str | None:
    """The operator that a warning of torch's is about; None where it is about something else."""
    if NOT_DETERMINISTIC in message:
        return message.partition(NOT_DETERMINISTIC)[0]
    if NOT_DETERMINISTIC_CUBLAS in message:
        return f"matrix products here, as CUDA started without {CUBLAS_WORKSPACE}=:4096:8"
    return None


class RandomState:
    """Every global generator of this process, as a part of a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """The generators' states as tensors and plain data."""
        return {
            "python": random.getstate(),
            "numpy": _plain(np.random.get_state()),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "cuda_device": torch.cuda.current_device() if torch.cuda.is_available() else 0,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put every generator where `state_dict` found it; of GPUs that of the one that trains."""
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))
        np.random.set_state(state["numpy"])

        torch.set_rng_state(state["torch"])
        if torch.cuda.is_available() and state["cuda"]:
            # this one may have another number than the one that trained before
            torch.cuda.set_rng_state(state["cuda"][state.get("cuda_device", 0)])


def _plain(numpy_state: Any) -> tuple:
    name, keys, position, has_gauss, cached_gaussian = numpy_state
    return name, keys.tolist(), position, has_gauss, cached_gaussian
