"""Which checkpoints of a run stay beside the last one."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from miniclip.metrics.health import Health
from miniclip.runs import RunDirectory
from miniclip.training.checkpoint import load_checkpoint, save_checkpoint
from miniclip.training.kept_checkpoints import KeptCheckpoints
from miniclip.training.validation import EARLY_STEPS
from tests.conftest import TINY, fit


def save(kept: KeptCheckpoints, step: int) -> None:
    kept.before_replacing_last()
    save_checkpoint(kept.run.last_checkpoint, {"step": step})
    kept.after_replacing_last(step)


def steps_in(run: RunDirectory) -> dict[str, int]:
    """Step of each checkpoint, by its name."""
    return {path.stem: torch.load(path)["step"] for path in run.checkpoints.iterdir()}


def test_the_newest_that_were_replaced_stay_until_the_end(tmp_path: Path) -> None:
    for keep_last, former in ((0, ()), (1, (30,)), (2, (20, 30))):
        run = RunDirectory(tmp_path / str(keep_last))
        kept = KeptCheckpoints(run, keep_last=keep_last, keep_best=1)
        for step in (10, 20, 30, 40):
            save(kept, step)
        assert steps_in(run) == {"last": 40, **{f"step_{step:08d}": step for step in former}}
        kept.remove_former()
        assert steps_in(run) == {"last": 40}


def test_a_last_checkpoint_that_was_not_read_is_not_kept_as_sound(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.last_checkpoint.write_bytes(b"damaged")
    save_checkpoint(run.checkpoint("step_00000010"), {"step": 10})
    save_checkpoint(run.checkpoint("step_00000030"), {"step": 30})

    # gone on with from step 10: what lies beyond it is of another future
    kept = KeptCheckpoints(run, keep_last=1, keep_best=1)
    save(kept, 20)
    assert steps_in(run) == {"last": 20, "step_00000010": 10}


def test_the_best_validations_stay(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    kept = KeptCheckpoints(run, keep_last=0, keep_best=2)
    health = dict.fromkeys(("alignment", "modality_gap", "positive_cosine", "negative_cosine"), 0.5)
    sound = {"image_uniformity": -2.0, "text_uniformity": -2.0, "image_rank": 9.0, "text_rank": 9.0}
    collapsed = sound | {"text_uniformity": -0.01}
    for step, rsum, loss, measures in (
        (1, 90.0, 1.0, collapsed),
        (2, 50.0, 1.0, sound),
        (3, 70.0, None, sound),
        (4, 60.0, 1.0, sound),
        (5, 55.0, 1.0, sound),
        (EARLY_STEPS, 99.0, 1.0, collapsed),
    ):
        found = {f"health/{name}": value for name, value in (health | measures).items()}
        with open(run.metrics, "a") as file:
            file.write(json.dumps({"step": step, "val/rsum": rsum, "val/loss": loss, **found}) + "\n")
        save(kept, step)
        kept.add_validated(step)
    assert steps_in(run) == {"last": EARLY_STEPS, "best_00000004": 4, "best_00000005": 5}


def test_no_collapsed_weights_are_among_the_best(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    kept = KeptCheckpoints(run, keep_last=0, keep_best=5)
    collapsed = dict.fromkeys(Health._fields, -0.01) | {"image_rank": 9.0, "text_rank": 1.0}
    found = {f"health/{name}": value for name, value in collapsed.items()}
    for step in (1, EARLY_STEPS):
        with open(run.metrics, "a") as file:
            file.write(json.dumps({"step": step, "val/rsum": 9.0, "val/loss": 1.0, **found}) + "\n")
        save(kept, step)
        kept.add_validated(step)
    assert steps_in(run) == {"last": EARLY_STEPS, "best_00000001": 1}


def test_without_sound_records_all_of_the_best_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDirectory(tmp_path)
    kept = KeptCheckpoints(run, keep_last=0, keep_best=1)
    run.metrics.write_text("damaged\n")
    for step in (1, 2):
        save(kept, step)
        kept.add_validated(step)
    assert steps_in(run) == {"last": 2, "best_00000001": 1, "best_00000002": 2}
    assert "metrics.jsonl is damaged" in caplog.text and "all of them stay" in caplog.text


def test_a_run_keeps_what_it_is_told_and_ends_with_its_best_weights(tmp_path: Path) -> None:
    run = fit(tmp_path, *TINY, "trainer.budget.epochs=3", "trainer.keep_best=2", "trainer.keep_last=2")
    best = load_checkpoint(run.best_checkpoint)
    validations = [record for record in run.read_metrics() if "val/rsum" in record]
    assert len(validations) == 3
    names = {path.name for path in run.checkpoints.iterdir()}
    assert f"best_{best['progress']['step']:08d}.pt" in names
    assert len(names) == 5 and {"last.pt", "best.pt", "best.safetensors"} < names

    weights = safetensors.torch.load_file(run.checkpoints / "best.safetensors")
    assert weights.keys() == best["model"].keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in best["model"].items())
    with safetensors.safe_open(run.checkpoints / "best.safetensors", "pt") as file:
        assert file.metadata()["step"] == str(best["progress"]["step"])
