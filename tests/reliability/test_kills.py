"""A run that is killed at any instant goes on as if nothing had happened."""

import signal
from pathlib import Path

from tests.reliability.trials import TINY, Trial, before_call, outcome, signal_self

STEP = "miniclip.training.step:TrainingStep.__call__"


def test_killed_in_a_step_it_ends_like_the_run_that_was_not(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert Trial(*TINY, f"hydra.run.dir={whole}", output=tmp_path / "whole.txt").wait() == 0

    settings = (*TINY, f"hydra.run.dir={killed}", "trainer.resume=auto")
    kill = before_call(STEP, 6, signal_self(signal.SIGKILL))
    assert Trial(*settings, output=tmp_path / "killed.txt", before=kill).wait() == 128 + signal.SIGKILL
    assert Trial(*settings, output=tmp_path / "resumed.txt").wait() == 0
    assert outcome(killed) == outcome(whole)
