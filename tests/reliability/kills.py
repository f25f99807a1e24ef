"""Kills: a run that dies at instants of a seeded choice, again and again, before it comes to its end.

    kills = random_kills(random.Random(0), 7)
    trial = Trial(*settings, "trainer.resume=auto", output=output, before=partial(die, kills, told))
    assert trial.wait() == 0
    deaths = read_deaths(told)

What follows the composition of the config is done in forks of the command, each of which is what the same
command typed again would be: it finds what the dead one left, and nothing else is left of that.
"""

import json
import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from tests.reliability.trials import at_call

JOB = "miniclip.commands.job:run_job"
STEP = "miniclip.training.step:TrainingStep.__call__"

TARGETS = {
    JOB: 1,
    STEP: 15,
    "miniclip.training.validation:encode": 4,
    "torch:save": 3,
    "os:fsync": 4,
    "os:link": 5,
    "os:replace": 20,
    "matplotlib.figure:Figure.savefig": 2,
    "miniclip.runs.run_directory:RunDirectory.write_status": 2,
}
"""Functions as whose n-th call a run can die, and how often a run calls each, about.

`os:replace` is between all files that a run writes: config, tokenizer, checkpoints, status, ranks, figures.
"""


class Kill(NamedTuple):
    """An instant: so many seconds after the n-th call of a function begins."""

    target: str
    number: int
    seconds: float


class Death(NamedTuple):
    """What a kill came to.

    Attributes:
        kill: the instant.
        is_hit: whether the run was still there.
        lost_steps: steps done that no checkpoint holds.
    """

    kill: Kill
    is_hit: bool
    lost_steps: int


def random_kills(chance: random.Random, number: int) -> list[Kill]:
    """A third at a random time, a third as a function is called, a third in the milliseconds after."""
    kills = []
    for _ in range(number):
        kind = chance.choice(("time", "call", "after"))
        target = JOB if kind == "time" else chance.choice(list(TARGETS))
        seconds = {"time": chance.uniform(0, 3), "call": 0.0, "after": chance.uniform(0, 0.02)}[kind]
        kills.append(Kill(target, chance.randint(1, TARGETS[target]), seconds))
    return kills


def read_deaths(told: Path) -> list[Death]:
    """What `die` has written down."""
    return [Death(Kill(*kill), *rest) for kill, *rest in json.loads(told.read_text())]


def die(kills: Sequence[Kill], told: Path) -> None:
    """Let this process's command die once per kill; the last time, or once it survives, it may end.

    Args:
        told: file that takes what came of each.
    """
    from miniclip.commands import job

    run_job = job.run_job

    @wraps(run_job)
    def dying(cfg: DictConfig) -> float:
        deaths: list[Death] = []
        for kill in kills:
            deaths.append(_killed_once(run_job, cfg, kill))
            told.write_text(json.dumps(deaths))
            if not deaths[-1].is_hit:
                return 0.0
        return run_job(cfg)

    job.run_job = dying


def _killed_once(run_job: Callable[[DictConfig], float], cfg: DictConfig, kill: Kill) -> Death:
    """One try in a fork."""
    steps = RawValue("q", 0)
    reader, writer = os.pipe()
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=_run, args=(run_job, cfg, kill, steps, writer))
    saved = _saved_step()

    process.start()
    os.close(writer)
    if os.read(reader, 1):  # the instant has come; nothing where the run ended before
        process.join(kill.seconds)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    os.close(reader)

    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), f"exit {process.exitcode} before {kill}"
    is_hit = process.exitcode != 0
    return Death(kill, is_hit, saved + steps.value - _saved_step() if is_hit else 0)


def _run(
    run_job: Callable[[DictConfig], float], cfg: DictConfig, kill: Kill, steps: Any, writer: int
) -> None:
    """The job, in a process group of its own, that tells when its instant has come."""
    os.setsid()
    _count_steps(steps)

    def tell() -> None:
        if kill.seconds == 0:
            os.killpg(0, signal.SIGKILL)
        os.write(writer, b"!")

    if kill.target == JOB:
        tell()
    else:
        at_call(kill.target, kill.number, tell)
    run_job(cfg)


def _count_steps(steps: Any) -> None:
    """Count the steps that are done, where also the process that kills sees it."""
    from miniclip.training import TrainingStep

    original = TrainingStep.__call__

    def counting(self: TrainingStep, batches: Any) -> Any:
        result = original(self, batches)
        steps.value += 1
        return result

    TrainingStep.__call__ = counting  # type: ignore[method-assign]


def _saved_step() -> int:
    """The step at which the last checkpoint of the present run stands; it has to be readable."""
    from hydra.core.hydra_config import HydraConfig

    from miniclip.runs import RunFiles
    from miniclip.training.checkpoint import load_checkpoint

    path = RunFiles(Path(HydraConfig.get().runtime.output_dir)).last_checkpoint
    return load_checkpoint(path)["progress"]["step"] if path.exists() else 0
