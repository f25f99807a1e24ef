"""Values that are not finite, in whole runs: a bad batch changes nothing, and too many end the run."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from miniclip.data.batch import Batch
from miniclip.models import CLIPOutput
from miniclip.optim import SAM
from miniclip.runs import RunDirectory
from miniclip.training.checkpoint import load_checkpoint
from miniclip.training.forward_backward import Accumulation
from miniclip.training.guards import all_finite
from miniclip.training.step import StepResult, TrainingStep
from tests.conftest import OPTIMIZERS, TINY, fit
from tests.in_process import train_in_process
from tests.reliability.trials import plain

SMALL = (
    *(each for each in TINY if not each.startswith(("data.limit", "trainer.budget"))),
    "data.limit=24",
    "trainer.budget.epochs=2",
    "trainer.num_workers=0",
    "logger=none",
)
"""Three steps an epoch, six in all."""

BAD_STEP = 4
LOSSES_UNKNOWN = ("aesam", "functional_sam", "late_sam", "late_sam_on_muon")
"""It is not known beforehand how many losses their bad step computes; all others are tried."""

BASES = ("adamw", "muon", "nadam", "sgd")

Step = Callable[[TrainingStep, Sequence[Batch]], StepResult]


def spoil_pixel(value: float) -> Callable[[pytest.MonkeyPatch], None]:
    """Give one pixel of the bad step's batch another value."""

    def spoil(patch: pytest.MonkeyPatch) -> None:
        def spoiled(original: Step, step: TrainingStep, batches: Sequence[Batch]) -> StepResult:
            images = batches[0].images.clone()
            images[0, 0, 0, 0] = value
            return original(step, [batches[0]._replace(images=images), *batches[1:]])

        in_bad_step(patch, spoiled)

    return spoil


def spoil_loss(pass_number: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Let the loss of one pass of the bad step be NaN, with all features as they should be."""

    def spoil(patch: pytest.MonkeyPatch) -> None:
        def spoiled(original: Step, step: TrainingStep, batches: Sequence[Batch]) -> StepResult:
            compare, calls = Accumulation._compare, []

            def bad_loss(*arguments: Any) -> tuple[CLIPOutput, Tensor]:
                calls.append(0)
                last = min(pass_number, step.optimizer.num_passes(BAD_STEP) - before)
                output, loss = compare(*arguments)
                return output, loss * (math.nan if len(calls) == last else 1.0)

            before = step.optimizer.num_passes(BAD_STEP - 1)
            with patch.context() as inner:
                inner.setattr(Accumulation, "_compare", bad_loss)
                return original(step, batches)

        in_bad_step(patch, spoiled)

    return spoil


def leave_out(patch: pytest.MonkeyPatch) -> None:
    """Do nothing in the bad step, and say that it was skipped; it counts in an optimizer's cycle."""

    def left_out(original: Step, step: TrainingStep, batches: Sequence[Batch]) -> StepResult:
        if isinstance(step.optimizer, SAM):
            step.optimizer.num_updates += 1
        nothing = torch.tensor(math.nan)
        return StepResult(nothing, nothing, nothing, {}, {}, num_passes=0)

    in_bad_step(patch, left_out)


def in_bad_step(
    patch: pytest.MonkeyPatch,
    do: Callable[[Step, TrainingStep, Sequence[Batch]], StepResult],
    *,
    and_after: bool = False,
) -> None:
    """Do something in place of the bad step, and perhaps of all after it."""
    original = TrainingStep.__call__
    calls: list[int] = []

    def counting(self: TrainingStep, batches: Sequence[Batch]) -> StepResult:
        calls.append(0)
        if len(calls) == BAD_STEP or (and_after and len(calls) > BAD_STEP):
            return do(original, self, batches)
        return original(self, batches)

    patch.setattr(TrainingStep, "__call__", counting)


SPOILS = {
    "NaN pixel": spoil_pixel(math.nan),
    "1e30": spoil_pixel(1e30),
    "NaN loss": spoil_loss(1),
    "NaN loss of the last pass": spoil_loss(2),
}


def trained(folder: Path, spoil: Callable[[pytest.MonkeyPatch], None], *settings: str) -> dict[str, Any]:
    """The last checkpoint of a run with a bad step."""
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch)
        run = fit(folder, *SMALL, *settings)
    assert json.loads(run.summary.read_text())["skipped_steps"] == 1
    return load_checkpoint(run.last_checkpoint)


def assert_nothing_left(tmp_path: Path, spoils: Sequence[str], *settings: str) -> None:
    """Hold runs whose bad step was spoiled against one that leaves it out, to the bit."""
    reference = trained(tmp_path / "left_out", leave_out, *settings)
    for name in spoils:
        found = trained(tmp_path / name, SPOILS[name], *settings)
        for part in ("model", "optimizer", "random_state"):
            assert plain(found[part]) == plain(reference[part]), (name, part)


HANDFUL = {
    "looksam": ["optimizer=looksam", "optimizer.interval=3", "optimizer/base=muon"],
    "gsam": [
        "optimizer=gsam",
        "loss=siglip",
        "temperature=learned",
        "trainer.accumulate_steps=2",
        "trainer.budget.epochs=6",
    ],
}


@pytest.mark.parametrize("name", HANDFUL)
def test_a_bad_step_is_as_if_it_were_left_out(name: str, tmp_path: Path) -> None:
    assert_nothing_left(tmp_path, ["1e30", "NaN loss of the last pass"], *HANDFUL[name])


@pytest.mark.long
@pytest.mark.parametrize(
    "setting", [f"optimizer={name}" for name in OPTIMIZERS if name not in LOSSES_UNKNOWN]
)
@pytest.mark.parametrize("base", BASES)
def test_a_bad_step_is_as_if_it_were_left_out_with_every_optimizer(
    setting: str, base: str, tmp_path: Path
) -> None:
    settings = [setting]
    if setting not in ("optimizer=adamw", "optimizer=muon", "optimizer=muon_short"):
        settings.append(f"optimizer/base={base}")
    if setting in ("optimizer=looksam", "optimizer=interval"):
        settings.append("optimizer.interval=3")  # the bad step is one that ascends
    assert_nothing_left(tmp_path, list(SPOILS), *settings)


@pytest.mark.parametrize("optimizer", ["sam", "looksam"])
def test_overflows_of_float16_reach_nothing(optimizer: str, tmp_path: Path) -> None:
    """The scaler tries out scales at first, so a few steps more are skipped."""
    with pytest.MonkeyPatch.context() as patch:
        spoil_pixel(1e5)(patch)
        run = fit(tmp_path, *SMALL, f"optimizer={optimizer}", "precision=fp16")
    checkpoint = load_checkpoint(run.last_checkpoint)
    assert checkpoint["progress"]["skipped_steps"] >= 1
    assert all_finite(checkpoint["model"].values())
    assert all_finite(tensors_of(checkpoint["optimizer"]))


def test_a_run_that_is_bad_for_good_ends_as_diverged(tmp_path: Path) -> None:
    """One line, the images by name, and a last checkpoint of the weights before."""

    def always_bad(original: Step, step: TrainingStep, batches: Sequence[Batch]) -> StepResult:
        images = torch.full_like(batches[0].images, math.nan)
        return original(step, [batches[0]._replace(images=images)])

    with pytest.MonkeyPatch.context() as patch:
        in_bad_step(patch, always_bad, and_after=True)
        settings = ["trainer.max_skipped_steps=1", "trainer.budget.epochs=5", f"hydra.run.dir={tmp_path}"]
        answer = train_in_process(*SMALL, *settings)

    assert answer.returncode == 1
    (line,) = answer.stderr.strip().splitlines()
    assert line.startswith("Error: Stopped at step ") and "trainer.max_skipped_steps=1" in line
    run = RunDirectory(tmp_path)
    assert json.loads(run.status.read_text())["status"] == "diverged"

    skipped = [json.loads(text) for text in run.skipped_batches.read_text().splitlines()]
    assert [record["step"] for record in skipped[:2]] == [BAD_STEP, BAD_STEP + 1]
    assert all(len(set(record["images"])) == 8 for record in skipped)
    last, best = load_checkpoint(run.last_checkpoint), load_checkpoint(run.best_checkpoint)
    assert plain(last["model"]) == plain(best["model"])  # of the third step, which was the last good one


@pytest.mark.parametrize(
    "setting", ["optimizer.base.lr=.inf", "optimizer.base.lr=.nan", "optimizer.rho=.inf"]
)
def test_settings_that_are_not_finite_are_refused_in_one_line(setting: str, tmp_path: Path) -> None:
    optimizer = "sam" if "rho" in setting else "adamw"
    answer = train_in_process(*SMALL, f"optimizer={optimizer}", setting, f"hydra.run.dir={tmp_path}")
    assert answer.returncode == 1
    (line,) = answer.stderr.strip().splitlines()
    assert setting.partition("=")[0] in line


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors inside plain data."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return []
    return [tensor for below in value for tensor in tensors_of(below)]
