"""The profile of a run: where a step's time goes, how much arithmetic it is, and a trace of some steps."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from miniclip.training.cuda_graphs import without_graphs
from miniclip.training.phases import PhaseClock, synchronize
from miniclip.training.progress import Progress

log = logging.getLogger(__name__)

COUNTED = 1
"""The step whose arithmetic is counted, which takes longer."""

TIMED = range(10, 20)
"""The steps whose phases are timed, when libraries have chosen their kernels."""

TRACED = range(20, 23)
"""The steps that the trace shows; to record them takes time, too."""


class StepProfiler:
    """Times some steps of a run, counts the arithmetic of one, and writes a trace of a few.

    Steps are counted from where training begins or is resumed. They compute what they would without it.

    Args:
        device: where the model lies.
        dtype: of the forward pass, and of the matrix product that is measured beside it.
        images_per_step: of all processes.
        progress: of the run, whose forward passes say how much of a kind a step is.
        trace: file that the trace is written to, for ui.perfetto.dev.
    """

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        *,
        images_per_step: int,
        progress: Progress,
        trace: Path,
    ):
        self.device = device
        self.dtype = dtype
        self.progress = progress
        self.images_per_step = images_per_step
        self.trace = trace
        self.num_steps = 0
        self.flops = 0
        self.counted_passes = 0
        self.timed_passes = 0
        self.clock = PhaseClock(device)
        self.seconds = 0.0
        self._recording: profile | None = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """Context of one step, its reading of batches included."""
        number, self.num_steps = self.num_steps, self.num_steps + 1
        passes_before = self.progress.forward_passes or 0
        if number == COUNTED:
            with self._counted():
                yield
            self.counted_passes = (self.progress.forward_passes or 0) - passes_before
        elif number in TIMED:
            with self._timed():
                yield
            self.timed_passes += (self.progress.forward_passes or 0) - passes_before
        elif number in TRACED:
            with self._traced(is_last=number == TRACED[-1]):
                yield
        else:
            yield

    @contextmanager
    def _counted(self) -> Iterator[None]:
        # torch's counter sees no kernels that are compiled or recorded in a graph
        eager = torch.compiler.set_stance("force_eager")
        with eager, without_graphs(), FlopCounterMode(display=False) as counter:
            yield
        self.flops = counter.get_total_flops()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        synchronize(self.device)
        started = time.perf_counter()
        with self.clock.running():
            yield
        synchronize(self.device)
        self.seconds += time.perf_counter() - started

    @contextmanager
    def _traced(self, *, is_last: bool) -> Iterator[None]:
        if self._recording is None:
            activities = [ProfilerActivity.CPU]
            if self.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # which would tell of its start and stop
            self._recording = profile(activities=activities)
            self._recording.start()
        with PhaseClock(self.device).running():  # which names the phases in the trace
            yield
        if is_last:
            synchronize(self.device)
            recording = self._recording
            self.close()
            try:
                recording.export_chrome_trace(str(self.trace))
            except OSError as error:
                log.warning("The trace cannot be written (%s).", error.strerror or error)

    def close(self) -> None:
        """End a recording that is under way, which takes memory and time as long as the process lives."""
        if self._recording is not None:
            self._recording.stop()
            self._recording = None

    def result(self) -> dict[str, Any] | None:
        """What was found, in seconds a step, also told; None where the run had too few steps."""
        if self.num_steps <= TRACED[-1]:
            text = "trainer.profile=true: %d steps are too few for a profile, which takes %d."
            log.warning(text, self.num_steps, TRACED[-1] + 1)
            return None

        peak = peak_flops(self.device, self.dtype)
        seconds = self.seconds / len(TIMED)
        passes = self.timed_passes / len(TIMED)
        flops = round(self.flops * passes / self.counted_passes)
        found = {
            "seconds_per_step": seconds,
            "images_per_second": self.images_per_step / seconds,
            "forward_passes_per_step": passes,
            "flops_per_step": flops,
            "peak_flops_per_second": peak,
            "share_of_peak": flops / seconds / peak,
            "phases": {name: value / len(TIMED) for name, value in self.clock.seconds().items()},
            "trace": self.trace.name,
        }
        for line in table(found):
            log.info("%s", line)
        return found


def table(found: dict[str, Any]) -> list[str]:
    """The lines of a profile: a phase each, then rates."""
    total = found["seconds_per_step"]
    phases = sorted(found["phases"].items(), key=lambda pair: -pair[1])
    lines = [f"{name:20} {1000 * value:9.1f} ms {value / total:6.1%}" for name, value in phases]
    rates = (
        f"{found['images_per_second']:,.0f} images/s, {found['flops_per_step'] / 1e9:,.0f} GFLOP: "
        f"{found['share_of_peak']:.1%} of what a matrix product reaches here, "
        f"{found['peak_flops_per_second'] / 1e12:.2f} TFLOP/s."
    )
    return [
        f"Where the time of a step goes, of {found['forward_passes_per_step']:g} forward passes (steps "
        f"{TIMED[0] + 1} to {TIMED[-1] + 1} from where this run began):",
        *lines,
        f"{'a step':20} {1000 * total:9.1f} ms, {rates}",
        f"A trace of {len(TRACED)} steps is in {found['trace']}: open it in ui.perfetto.dev.",
    ]


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Arithmetic per second of a large product of two square matrices, the median of five."""
    size = 8192 if device.type == "cuda" else 2048
    # not from the generator that training draws from
    a = torch.linspace(-1, 1, size * size, device=device).view(size, size).to(dtype)
    rates = []
    for _ in range(6):
        synchronize(device)
        started = time.perf_counter()
        a @ a
        synchronize(device)
        rates.append(2 * size**3 / (time.perf_counter() - started))
    return median(rates[1:])
