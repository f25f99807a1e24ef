"""Runs of two processes, as torchrun starts them: one run directory, an end for all, and going on."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from miniclip.runs import RunDirectory
from tests.conftest import ROOT, TINY

SMALL = (
    *TINY,
    "encoder.image.architecture=test_convnext",
    "precision=fp32",
    "trainer.num_workers=0",
    "optimizer=sam",
)


@contextmanager
def processes(folder: Path, *settings: str, of_second: tuple[str, ...] = (), **env: str) -> Iterator[list]:
    """Two processes that torchrun would start, and none that is left behind."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **env}
    shared |= {"OMP_NUM_THREADS": "1", "HOME": str(folder), "WANDB_SILENT": "true"}

    started = []
    for rank in range(2):
        command = [sys.executable, str(ROOT / "run.py"), *SMALL, *settings]
        command += [f"hydra.run.dir={folder / 'run'}", *(of_second if rank == 1 else ())]
        started.append(
            subprocess.Popen(
                command,
                cwd=folder,
                env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def said(process: subprocess.Popen[str]) -> str:
    """All that a process printed, once it has ended."""
    out, _ = process.communicate(timeout=120)
    return out


def records(run: RunDirectory) -> list[dict]:
    """What the run recorded of its steps and validations, without its times."""
    times = {"train/seconds", "train/images_per_second"}
    return [{key: value for key, value in each.items() if key not in times} for each in run.read_metrics()]


def wait_for_steps(run: RunDirectory, count: int) -> None:
    deadline = time.monotonic() + 90
    while not run.metrics.is_file() or run.metrics.read_text().count("train/loss") < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
