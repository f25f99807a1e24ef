"""The profile of a run: its phases add up, its arithmetic is that of the passes, and it changes nothing."""

import gzip
import json
import time
from pathlib import Path

import pytest
import torch

from miniclip.runs import RunDirectory
from miniclip.training.phases import PhaseClock, phase, phases_unseen
from tests.conftest import TINY, fit, parts_of

STEPS = (*TINY, "precision=fp32", "trainer.validate_every_epochs=100", "trainer.budget.steps=23")

PHASES = {
    "data",
    "image forward",
    "text forward",
    "loss",
    "backward",
    "between passes",
    "optimizer",
    "other",
}


def profiled(folder: Path, *settings: str) -> RunDirectory:
    return fit(folder, *STEPS, "trainer.profile=true", *settings)


def test_a_profiled_run_computes_what_others_do_and_tells_where_its_time_goes(tmp_path: Path) -> None:
    plain = fit(tmp_path / "plain", *STEPS, "optimizer=adamw")
    run = profiled(tmp_path / "profiled", "optimizer=adamw")
    expected, found = (parts_of(each.last_checkpoint)["model"] for each in (plain, run))
    assert all(torch.equal(found[name], expected[name]) for name in expected)

    profile = run.read_summary()["profile"]
    assert set(profile["phases"]) == PHASES
    assert sum(profile["phases"].values()) == pytest.approx(profile["seconds_per_step"], rel=0.05)
    assert profile["images_per_second"] == pytest.approx(8 / profile["seconds_per_step"])
    assert 0 < profile["share_of_peak"] < 1

    with gzip.open(run.trace) as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert names >= PHASES - {"other"} and "aten::convolution" in names

    # SAM goes through the model twice
    twice = profiled(tmp_path / "sam", "optimizer=sam").read_summary()["profile"]
    assert twice["flops_per_step"] == pytest.approx(2 * profile["flops_per_step"], rel=0.01)


def test_steps_of_several_kinds_count_by_their_passes(tmp_path: Path) -> None:
    """The step whose arithmetic is counted has no perturbation, two of the ten that are timed do."""
    plain, mixed = (
        profiled(tmp_path / name, f"optimizer={name}").read_summary()["profile"]
        for name in ("adamw", "interval")
    )
    assert mixed["forward_passes_per_step"] == pytest.approx(1.2)
    assert mixed["flops_per_step"] == pytest.approx(1.2 * plain["flops_per_step"], rel=0.01)


def test_too_few_steps_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The last is in the trace, whose recording must not outlive the run."""
    run = profiled(tmp_path, "trainer.budget.steps=21")
    assert "trainer.profile=true: 21 steps are too few for a profile, which takes 23." in caplog.text
    assert run.read_summary()["profile"] is None and not run.trace.exists()
    assert not torch.autograd._profiler_enabled()


def test_a_phase_counts_without_those_inside_it() -> None:
    clock = PhaseClock(torch.device("cpu"))
    with phase("nobody asks"):
        pass
    with clock.running():
        with phase("outer"):
            time.sleep(0.03)
            with phase("inner"):
                time.sleep(0.06)
            time.sleep(0.03)
        with phase("inner"):
            time.sleep(0.06)
        with phases_unseen(), phase("unseen"):
            pass
    seconds = clock.seconds()
    assert list(seconds) == ["other", "outer", "inner"]
    assert seconds["outer"] == pytest.approx(0.06, abs=0.05)
    assert seconds["inner"] == pytest.approx(0.12, abs=0.05)
    assert seconds["other"] < 0.03
