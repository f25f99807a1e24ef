"""Where the time of a step goes: named phases, timed while somebody asks, and free where nobody does."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.profiler import record_function

REST = "other"
"""What lies between the phases."""

_clock: "PhaseClock | None" = None


class PhaseClock:
    """Adds up the time of phases, each less that of the phases inside it.

    On a GPU it is the GPU's own time, between two places in its stream: what the host does meanwhile
    counts where the GPU waits for it.

    Args:
        device: where the model lies.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._marks: list[tuple[Any, str | None]] = []
        self._name: str | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Context whose phases are timed."""
        global _clock
        self._mark(REST)
        _clock = self
        try:
            yield
        finally:
            _clock = None
            self._mark(None)  # what comes until it runs again is not timed

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Context whose time is that of a phase."""
        outer = self._name
        self._mark(name)
        try:
            with record_function(name):
                yield
        finally:
            self._mark(outer)

    def seconds(self) -> dict[str, float]:
        """The time of each phase, in the order in which they began; waits for a GPU."""
        synchronize(self.device)
        found: dict[str, float] = defaultdict(float)
        for (start, name), (end, _) in zip(self._marks, self._marks[1:], strict=False):
            if name is not None:
                found[name] += _between(start, end)
        return dict(found)

    def _mark(self, name: str | None) -> None:
        """Say which phase it is from here on."""
        self._name = name
        self._marks.append((self._now(), name))

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event


def phase(name: str) -> AbstractContextManager[None]:
    """Context of a part of a step, of that name in a profile."""
    return nullcontext() if _clock is None else _clock.phase(name)


@contextmanager
def phases_unseen() -> Iterator[None]:
    """Context whose phases are not told apart: what a GPU records there, it does later."""
    global _clock
    before, _clock = _clock, None
    try:
        yield
    finally:
        _clock = before


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done all it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _between(start: Any, end: Any) -> float:
    """Seconds between two moments of the same clock."""
    if isinstance(start, torch.cuda.Event):
        return start.elapsed_time(end) / 1000
    return end - start
