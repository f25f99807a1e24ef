"""A long run takes no more memory and no more files at its end than when it had warmed up."""

import gc
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import pytest

from miniclip.data.batch import Batch
from miniclip.training.step import StepResult, TrainingStep
from tests.conftest import TINY, fit

NUM_STEPS = 4000
EVERY_STEPS = 20

MOST_GROWTH = 0.02
"""Of the memory, from the third quarter of a run to the fourth."""


@pytest.mark.long
def test_memory_and_files_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory: list[float] = []
    files: list[int] = []
    original = TrainingStep.__call__
    calls: list[None] = []

    def measured(self: TrainingStep, batches: Sequence[Batch]) -> StepResult:
        calls.append(None)
        if len(calls) % EVERY_STEPS == 0:
            memory.append(resident_megabytes())
            files.append(len(os.listdir("/proc/self/fd")))
        return original(self, batches)

    monkeypatch.setattr(TrainingStep, "__call__", measured)
    gc.collect()
    settings = [f"trainer.budget.steps={NUM_STEPS}", "trainer.validate_every_epochs=100", "optimizer=adamw"]
    fit(tmp_path, *TINY, *settings, "trainer.num_workers=0")

    assert len(memory) == NUM_STEPS // EVERY_STEPS
    megabytes = [mean(quarter) for quarter in quarters(memory)]
    most_files = [max(quarter) for quarter in quarters(files)]
    print(f"{NUM_STEPS} steps by quarters: {[round(each) for each in megabytes]} MB, {most_files} files")
    assert megabytes[3] < (1 + MOST_GROWTH) * megabytes[2]
    assert most_files[3] <= most_files[0]


def quarters(values: Sequence[float]) -> list[Sequence[float]]:
    size = len(values) // 4
    return [values[start : start + size] for start in range(0, 4 * size, size)]


def resident_megabytes() -> float:
    """Memory of this process that is in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
