"""Records of steps: read many at a time, and in their order whatever ends an epoch."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from miniclip.data import ImageTextDataset, Split
from miniclip.data.images import ImageArray
from miniclip.data.transforms import CenterCrop
from miniclip.runs import JsonlLogger, RunDirectory, RunFacts
from miniclip.training import StepResult
from miniclip.training.guards import TooManySkipped
from miniclip.training.interruption import Interrupted
from miniclip.training.progress import Progress
from miniclip.training.recorder import READ_EVERY_STEPS, Recorder


def recorder(folder: Path, *, every_steps: int = 1, max_skipped_steps: int = 2) -> Recorder:
    run = RunDirectory(folder)
    logger = JsonlLogger(every_steps=every_steps)
    logger.start(run.metrics, RunFacts("test", {}))
    images = ImageArray(np.zeros((3, 16, 16, 3), dtype=np.uint8))
    split = Split("train", ["a.jpg", "b.jpg", "c.jpg"], images, [["a"], ["b"], ["c"]])
    train_set = ImageTextDataset(split, CenterCrop(16))
    return Recorder(logger, Progress(), run, train_set=train_set, max_skipped_steps=max_skipped_steps)


def result(loss: float, *, norm: float = 1.0, **metrics: float) -> StepResult:
    tensors = {name: torch.tensor(value) for name, value in metrics.items()}
    return StepResult(torch.tensor(loss), torch.tensor(14.0), torch.tensor(norm), tensors, {"rho": 0.05}, 2)


def add(records: Recorder, taken: StepResult) -> None:
    records.progress.step += 1
    records.add(taken, lr=0.1, image_ids=[torch.tensor([2, 0])], num_false_negatives=4)


def logged(records: Recorder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in records.run.metrics.read_text().splitlines()]


def test_results_are_read_in_one_transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transfers: list[int] = []
    original = Tensor.tolist

    def counted(self: Tensor) -> Any:
        transfers.append(self.numel())
        return original(self)

    monkeypatch.setattr(Tensor, "tolist", counted)
    records = recorder(tmp_path)
    with records.epoch("1/1", num_images=8):
        for number in range(READ_EVERY_STEPS - 1):
            add(records, result(float(number)))
        assert transfers == [] and records.progress.skipped_steps == 0
        add(records, result(9.0, sharpness=0.5))
        assert transfers == [3 * READ_EVERY_STEPS + 1]
    losses = [record["train/loss"] for record in logged(records)]
    assert losses == [float(number) for number in range(READ_EVERY_STEPS)]
    last = logged(records)[-1]
    assert last["train/sharpness"] == 0.5 and last["train/rho"] == 0.05
    assert last["train/false_negatives"] == 4 and last["train/lr"] == 0.1


@pytest.mark.parametrize("ends", [None, Interrupted(2)])
def test_what_is_unread_at_the_end_of_an_epoch_is_read(tmp_path: Path, ends: Interrupted | None) -> None:
    records = recorder(tmp_path, every_steps=2)

    def train() -> None:
        with records.epoch("1/1", num_images=8):
            for number in range(3):
                add(records, result(float(number)))
            if ends is not None:
                raise ends

    if ends is None:
        train()
    else:
        with pytest.raises(Interrupted):
            train()
    assert [record["step"] for record in logged(records)] == [2]


def test_skipped_steps_are_counted_and_too_many_in_a_row_stop(tmp_path: Path) -> None:
    records = recorder(tmp_path, max_skipped_steps=2)
    norms = [math.nan, math.inf, 1.0, math.nan, math.nan, math.inf]
    with (
        pytest.raises(TooManySkipped, match=r"max_skipped_steps=2 were skipped.*last\.pt"),
        records.epoch("1/1", num_images=8),
    ):
        for norm in norms:
            add(records, result(1.0, norm=norm))
    assert records.progress.skipped_steps == 5 and records.progress.skipped_in_a_row == 3
    assert [record["train/skipped_steps"] for record in logged(records)] == [1, 2, 2, 3, 4, 5]
    skipped = [json.loads(line) for line in records.run.skipped_batches.read_text().splitlines()]
    assert skipped[0] == {"step": 1, "images": ["c.jpg", "a.jpg"]} and len(skipped) == 5
