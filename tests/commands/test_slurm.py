"""A Slurm job whose time is up, with a controller that is a script, and its tasks."""

from pathlib import Path

import pytest

from miniclip.commands.processes import words_of_several
from miniclip.commands.slurm import requeued

GOES_ON = ["trainer.resume=auto"]


@pytest.fixture
def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `scontrol` that writes down what it is told, and the job that runs."""
    script = tmp_path / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def told(controller: Path) -> str:
    path = controller / "told"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("words", [GOES_ON, ["-m", "seed=0,1", "hydra.sweep.dir=rho"]])
def test_a_job_that_would_go_on_is_queued_again(words: list[str], controller: Path) -> None:
    assert requeued(words)
    assert told(controller) == "requeue 17\n"


def test_a_job_of_an_array_is_queued_again_alone(controller: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "16")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert requeued(GOES_ON)
    assert told(controller) == "requeue 16_3\n"


@pytest.mark.parametrize("words", [[], ["trainer.resume=null"], ["-m", "trainer.resume=auto"]])
def test_one_that_would_begin_anew_is_not(
    words: list[str], controller: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not requeued(words)
    assert told(controller) == ""
    assert "trainer.resume=auto" in capsys.readouterr().err


def test_why_slurm_refuses_is_told(controller: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (controller / "scontrol").write_text("#!/bin/sh\necho 'Job is interactive' >&2\nexit 1\n")
    assert not requeued(GOES_ON)
    assert capsys.readouterr().err == "Slurm's job 17 is not queued again: Job is interactive\n"


def test_outside_of_slurm_nothing_is_done(
    controller: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID")
    assert not requeued(GOES_ON)
    assert told(controller) == capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("variables", "is_told"),
    [
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}, True),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1"}, False),  # once is enough
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, False),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, False),  # a batch script, which is one process
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0", "RANK": "0", "WORLD_SIZE": "2"}, False),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0", "SUBMITIT_EXECUTOR": "slurm"}, False),
    ],
)
def test_tasks_of_srun_that_train_apart_are_told(
    variables: dict[str, str],
    is_told: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_NTASKS", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert words_of_several(["seed=1"]) == ["seed=1"]
    assert ("4 tasks" in capsys.readouterr().err) == is_told
