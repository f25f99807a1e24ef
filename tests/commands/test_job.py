"""What a run says at its end, and how it stands after a signal that went astray."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from miniclip.commands import job
from miniclip.commands.job_text import table
from miniclip.errors import counted
from miniclip.runs import RunDirectory, read_state
from tests.conftest import TINY
from tests.in_process import train_in_process


@pytest.mark.parametrize(
    ("best", "said"),
    [
        ({"epoch": 0, "epochs_begun": 1}, "at step 3 (in epoch 1)"),
        ({"epoch": 2, "epochs_begun": 2}, "at step 3 (epoch 2)"),
        ({"epoch": 2}, "at step 3 (epoch 2)"),  # of a run of before both were kept
    ],
)
def test_the_best_validation_is_of_an_epoch_that_there_is(
    best: dict[str, Any], said: str, tmp_path: Path
) -> None:
    recalls = {f"val/{way}_r{k}": 50.0 for way in ("i2t", "t2i") for k in (1, 5, 10)}
    ranks = {f"val/{way}_median_rank": 2 for way in ("i2t", "t2i")}
    summary = {
        "best": {"protocol": "val", "step": 3, **best, **recalls, **ranks},
        "best_rsum": 300.0,
        "validations": 1,
        "images_per_second": 1.0,
        "seconds": 1.0,
    }
    assert said in table(summary, RunDirectory(tmp_path))
    assert "Best of 1 validation (val)" in table(summary, RunDirectory(tmp_path))


def test_one_is_singular() -> None:
    assert [counted(n, "row") for n in (0, 1, 1200)] == ["0 rows", "1 row", "1,200 rows"]


def test_what_breaks_on_the_way_out_of_an_interrupted_run_is_told_in_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library can turn the exception of a signal into one of its own."""

    def broken(*args: Any) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except KeyboardInterrupt:
            raise AttributeError("half imported") from None

    monkeypatch.setattr(job, "build", broken)
    done = train_in_process(f"hydra.run.dir={tmp_path}", "trainer.budget.steps=1")
    assert done.returncode == 143 and "Traceback" not in done.stderr
    assert str(read_state(tmp_path)) == "interrupted (SIGTERM; then half imported)"


def test_a_signal_that_a_library_swallows_ends_the_run_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swallowing(*args: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        return {}, {}

    monkeypatch.setattr(job, "_train_and_measure", swallowing)
    done = train_in_process(f"hydra.run.dir={tmp_path}", "trainer.budget.steps=1")
    assert done.returncode == 143
    assert str(read_state(tmp_path)) == "interrupted (SIGTERM)"


def test_records_that_are_damaged_meanwhile_cost_only_their_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ranks = RunDirectory.write_ranks

    def with_damage(run: RunDirectory, **arrays: Any) -> None:
        run.metrics.write_bytes(b"\xff\n" + run.metrics.read_bytes())
        write_ranks(run, **arrays)

    monkeypatch.setattr(RunDirectory, "write_ranks", with_damage)
    done = train_in_process(*TINY, f"hydra.run.dir={tmp_path}", "trainer.budget.steps=2")
    assert done.returncode == 0, done.stderr
    assert "metrics.jsonl is damaged" in done.stdout and "no figure of its curves" in done.stdout
    assert read_state(tmp_path).status == "completed"
    assert RunDirectory(tmp_path).retrieval_figure.is_file()


@pytest.mark.long
def test_a_refused_command_leaves_the_run_in_its_directory_as_it_was(tmp_path: Path) -> None:
    words = [*TINY, "trainer.budget.epochs=1", "data.limit=16", f"hydra.run.dir={tmp_path}", "device=cpu"]
    assert train_in_process(*words).returncode == 0
    run = RunDirectory(tmp_path)
    run.continued_in.write_text("../another\n")
    paths = [run.status, run.config, run.continued_in, run.environment, run.tokenizer / "tokenizer.json"]
    before = [path.read_bytes() for path in paths]

    refused = train_in_process(*words, "trainer.resume=auto", "data.limit=24")
    assert refused.returncode == 1 and refused.stderr.count("Error: ") == 1
    assert [path.read_bytes() for path in paths] == before

    # what goes on is the command's, however it ends
    longer = ["trainer.budget.epochs=3", "optimizer.base.lr=1e30", "trainer.max_skipped_steps=0"]
    assert train_in_process(*words, f"trainer.resume={tmp_path}", *longer).returncode == 1
    assert read_state(tmp_path).status == "diverged"


def test_a_compiler_that_is_missing_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_compiler(*arguments: object, **options: object) -> None:
        from torch._dynamo.exc import TorchDynamoException

        raise TorchDynamoException(
            "InvalidCxxCompiler: No working C++ compiler\n\nSet TORCHDYNAMO_VERBOSE=1"
        )

    monkeypatch.setattr("miniclip.training.step.TrainingStep.__call__", without_compiler)
    answer = train_in_process(*TINY, f"hydra.run.dir={tmp_path}")
    told = (
        "torch.compile fails (InvalidCxxCompiler: No working C++ compiler). It wants a C++ compiler, on a "
        "GPU Triton; without them take trainer.compile=false"
    )
    assert answer.returncode == 1 and answer.stderr.strip() == f"Error: {told}"
    assert read_state(tmp_path) == ("failed", told)
