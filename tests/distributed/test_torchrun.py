"""A run under torchrun itself, which starts its processes again when one has gone."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from miniclip.runs import RunDirectory
from tests.conftest import ROOT
from tests.distributed.test_runs import SMALL, records, wait_for_steps

SECONDS_TO_END = 30
"""How long the others may be there when one has gone."""


@pytest.mark.long
def test_torchrun_starts_all_again_and_they_go_on_by_themselves(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = ["trainer.budget.steps=12", "trainer.checkpoint_every_steps=1", f"hydra.run.dir={run.path}"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    command += [f"--master-port={port}", str(ROOT / "run.py"), *SMALL, *settings]
    output = tmp_path / "output.txt"

    with output.open("w") as file:
        torchrun = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        try:
            wait_for_steps(run, 3)
            os.kill(run.read_status()["pid"], signal.SIGKILL)
            killed = time.monotonic()
            while "Started again by torchrun (1)" not in output.read_text():
                assert time.monotonic() < killed + SECONDS_TO_END and torchrun.poll() is None
                time.sleep(0.1)
            assert torchrun.wait(150) == 0, output.read_text()
        finally:
            torchrun.terminate()
            torchrun.wait(SECONDS_TO_END)

    printed = output.read_text()
    assert printed.count("exitcode: -9") == 1 and "Traceback" not in printed, printed
    assert printed.count("Resumed from") == 1
    assert run.read_status()["status"] == "completed"
    assert {each["step"] for each in records(run)} == set(range(1, 13))
