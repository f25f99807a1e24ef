"""Paired timing and the conditions a figure was measured under."""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from benchmarks.figures import Figure


class Paired(NamedTuple):
    """Alternating measurements of named rivals, in seconds."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, over: str) -> float:
        """Median of the ratios within each round: a machine that drifts drifts for both."""
        return statistics.median(self._ratios(name, over))

    def figure(self, name: str, *, over: str, unit: str, rival: str | None = None) -> Figure:
        """The same with its spread, under a name for a table."""
        ratios = self._ratios(name, over)
        return Figure(
            name, rival or over, unit, statistics.median(ratios), min(ratios), max(ratios), len(ratios)
        )

    def _ratios(self, name: str, over: str) -> list[float]:
        return [a / b for a, b in zip(self.seconds[name], self.seconds[over], strict=True)]


def alternate(rivals: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 2) -> Paired:
    """Run the rivals in turn, `rounds` times each, after `warmup` rounds that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(warmup + rounds):
        for name, run in rivals.items():
            _wait()
            started = time.perf_counter()
            run()
            _wait()
            if number >= warmup:
                seconds[name].append(time.perf_counter() - started)
    return Paired(seconds)


def rates_figure(name: str, ours: Sequence[float], rival: str, theirs: Sequence[float]) -> Figure:
    """How many times the rival's rate: both were measured in turn, a round each."""
    seconds = Paired({"ours": [1 / rate for rate in ours], "theirs": [1 / rate for rate in theirs]})
    figure = seconds.figure("theirs", over="ours", unit="times the images/s", rival=rival)
    return figure._replace(name=name)


def conditions(*packages: str) -> str:
    """Machine and versions, for the head of a table."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return (
        f"{device}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}; {versions}"
    )


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
