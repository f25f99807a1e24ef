"""A trained model as tasks are given it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from miniclip.config.compose import compose
from miniclip.config.instantiate import make
from miniclip.config.restore import Restored, restore
from miniclip.data import ImageTextDataset
from miniclip.evaluation import Evaluation, TaskContext
from miniclip.pretrained import MiniCLIP
from miniclip.runs import RunDirectory


@dataclass(frozen=True)
class Measured:
    """A run restored once, and its two data sets."""

    restored: Restored
    model: MiniCLIP
    train: ImageTextDataset
    val: ImageTextDataset


@pytest.fixture(scope="session")
def measured(class_run: RunDirectory) -> Measured:
    """The run on the squares."""
    restored = restore(class_run.path)
    return Measured(restored, MiniCLIP(restored.named("a run")), *restored.datasets())


@pytest.fixture
def context(measured: Measured, tmp_path: Path) -> TaskContext:
    """That run for tasks, which write into a folder of the test's."""
    return TaskContext(
        measured.model, measured.train, measured.val, folder=tmp_path, loss=measured.restored.loss()
    )


@pytest.fixture
def context_of(measured: Measured, tmp_path: Path) -> Callable[..., TaskContext]:
    """The same model for other data, by its settings."""

    def make_context(*settings: str, **changes: Any) -> TaskContext:
        train, val = make(compose(*settings), "data").datasets()
        arguments = {"folder": tmp_path, "loss": measured.restored.loss(), **changes}
        return TaskContext(measured.model, train, val, **arguments)

    return make_context


def evaluation_of(*settings: str) -> Evaluation:
    """The evaluation that settings make."""
    evaluation: Evaluation = make(compose(*settings), "eval")
    return evaluation
