"""Seeds, the states of all generators in a checkpoint, and deterministic algorithms."""

import json
import os
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from miniclip.training.reproducibility import RandomState, deterministic_algorithms, seed_everything
from miniclip.training.step import TrainingStep
from tests.conftest import TINY
from tests.in_process import train_in_process


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_generators_go_on_where_their_state_was_taken() -> None:
    state = RandomState().state_dict()
    drawn = draw()
    assert draw() != drawn
    RandomState().load_state_dict(state)
    assert draw() == drawn


def test_a_seed_is_of_all_generators() -> None:
    seed_everything(3)
    drawn = draw()
    seed_everything(3)
    assert draw() == drawn
    seed_everything(4)
    assert all(other != one for other, one in zip(draw(), drawn, strict=True))


def torchs_choices() -> dict[str, Any]:
    """All that decides whether torch takes operators that give the same bits each time."""
    return {
        "mode": torch.get_deterministic_debug_mode(),
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "cublas": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "tf32": torch.get_float32_matmul_precision(),
        "show": warnings.showwarning,
    }


DETERMINISTIC = {"mode": 1, "cudnn": (True, False), "cublas": ":4096:8"}


def put_once_more() -> None:
    """Use an operator that has no deterministic form, on the CPU either."""
    torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))


def test_deterministic_algorithms_are_chosen_and_given_back(caplog: pytest.LogCaptureFixture) -> None:
    before = torchs_choices()
    with pytest.raises(KeyError), deterministic_algorithms(True):
        inside = torchs_choices()
        with pytest.warns(UserWarning, match="of another kind"):
            warnings.warn("of another kind", stacklevel=1)
        put_once_more()
        put_once_more()
        raise KeyError

    assert {key: inside[key] for key in DETERMINISTIC} == DETERMINISTIC
    assert inside["tf32"] == before["tf32"]
    assert torchs_choices() == before
    (told,) = caplog.messages
    assert "no deterministic form of put_" in told


def test_a_workspace_that_the_user_has_chosen_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic_algorithms(True):
        assert torchs_choices()["cublas"] == ":16:8"
    assert torchs_choices()["cublas"] == ":16:8"


def test_on_a_gpu_attention_is_its_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernels add up in any order wherever torch only warns."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    kernels = (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.mem_efficient_sdp_enabled)
    with deterministic_algorithms(True):
        assert not any(is_enabled() for is_enabled in kernels)
        assert torch.backends.cuda.math_sdp_enabled()
    assert all(is_enabled() for is_enabled in kernels)


def test_without_the_wish_nothing_changes() -> None:
    before = torchs_choices()
    with deterministic_algorithms(False):
        assert torchs_choices() == before


def test_a_job_is_deterministic_and_the_next_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both use an operator that is not; only who asked is told."""
    modes = []
    original = TrainingStep.__call__

    def noting(self: TrainingStep, batches: Any) -> Any:
        modes.append(torch.get_deterministic_debug_mode())
        put_once_more()
        return original(self, batches)

    monkeypatch.setattr(TrainingStep, "__call__", noting)
    for wanted in ("true", "false"):
        settings = ["trainer.budget.steps=1", f"trainer.deterministic={wanted}"]
        answer = train_in_process(*TINY, *settings, f"hydra.run.dir={tmp_path / wanted}", cwd=tmp_path)
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout.count("no deterministic form of put_") == int(wanted == "true")
        environment = json.loads((tmp_path / wanted / "environment.json").read_text())
        assert environment["deterministic_algorithms"] is (wanted == "true")
    assert modes == [1, 0]
