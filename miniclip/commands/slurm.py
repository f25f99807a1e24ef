"""Slurm: a job whose time is up is queued again, if it would then go on; tasks apart are told."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

PATIENCE_SECONDS = 30.0
"""How long the controller may take to answer; the job has ended its work by then."""


def requeued(words: Sequence[str]) -> bool:
    """Queue this process's Slurm job again, and tell so. Returns whether that was done.

    Args:
        words: what was typed after `miniclip train`. Typed again by the job it has to go on with what was
            saved, or the job would begin anew for ever.
    """
    job, scontrol = _job_id(), shutil.which("scontrol")
    if job is None or scontrol is None:
        return False
    if not _goes_on(words):
        _tell(
            f"Slurm's job {job} is not queued again, as it would begin anew: give it trainer.resume=auto, "
            "or a sweep hydra.sweep.dir=FOLDER"
        )
        return False

    try:
        command = [scontrol, "requeue", job]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        _tell(f"Slurm's job {job} is not queued again: {error}")
        return False

    if done.returncode != 0:
        _tell(f"Slurm's job {job} is not queued again: {done.stderr.strip()}")
        return False
    _tell(f"Slurm's job {job} is queued again.")
    return True


def tell_of_separate_tasks() -> None:
    """Tell where srun has started several tasks, which it does not make one run of."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks != "1" and os.environ.get("SLURM_PROCID") == "0":
        _tell(
            f"srun started {tasks} tasks, each of which trains a run of its own. To train one run on all "
            "of them let srun start one task a node, and that torchrun: see docs/scaling.md"
        )


def _job_id() -> str | None:
    """The job as scontrol knows it, 17_3 for the third of an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if array is not None and task is not None:
        return f"{array}_{task}"
    return os.environ.get("SLURM_JOB_ID")


def _goes_on(words: Sequence[str]) -> bool:
    """Whether the same command goes on: a run that looks for itself, or a sweep in a folder of its own."""
    is_sweep = "-m" in words or "--multirun" in words
    if is_sweep:
        return any(word.startswith("hydra.sweep.dir=") for word in words)
    return "trainer.resume=auto" in words


def _tell(text: str) -> None:
    print(text, file=sys.stderr)
