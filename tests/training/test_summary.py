"""The summary of a run."""

from pathlib import Path

import pytest
import torch

from miniclip.config.build import build
from miniclip.config.compose import compose
from miniclip.runs import RunDirectory
from miniclip.training.guards import Diverged
from miniclip.training.progress import Progress
from miniclip.training.summary import summary_of
from tests.conftest import TINY


def test_a_summary_needs_a_best_checkpoint(tmp_path: Path) -> None:
    _, setup, _ = build(compose(*TINY), RunDirectory(tmp_path))
    progress = Progress(epoch=2, step=10, broken={"a.jpg: empty": "broken", "b.jpg: gone": "missing"})
    device = torch.device("cpu")
    with pytest.raises(Diverged, match="there is no best checkpoint"):
        summary_of(setup, progress, seconds=1.0, device=device)

    progress.best = {"val/rsum": 30.0}
    found = summary_of(setup, progress, seconds=1.0, device=device)
    assert found["best_rsum"] == 30.0 and found["seconds"] == 1.0 and found["train_images"] == 40
    assert found["broken_images"] == {"broken": 1, "missing": 1}
    assert found["peak_gpu_gb"] is None and found["parameters"] > 0
