"""Runs whose tracker is bad in every way there is: they go on, lose five seconds and are kept offline."""

import atexit
import json
import shutil
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from miniclip.runs import RunFiles, WandbLogger
from miniclip.runs.loggers import wandb_server
from miniclip.runs.loggers.wandb_logger import PATIENCE_SECONDS
from tests.reliability.trials import TINY, Trial, at_call, before_call
from tests.runs.loggers.servers import TurningServer, served

STEP = "miniclip.training.step:TrainingStep.__call__"
FINISH = "miniclip.runs.loggers.wandb_logger:WandbLogger.finish"

OF_A_BUSY_MACHINE = 2.0
"""Seconds that writing files and starting processes may take beyond the wait for a server."""

ANSWERS: dict[str, tuple[int, bytes] | None] = {
    "refuses": (0, b""),
    "silent": None,
    "401": (401, b"{}"),
    "500": (500, b"oops"),
    "login page": (200, b"<html>please log in</html>"),
}
"""What a server answers that is no longer one."""

KILLED = "killed"
"""The case in which W&B's own process is killed instead."""

PHASES = ("start", "middle", "end")


class Case(NamedTuple):
    """What goes wrong, and when.

    Attributes:
        kind: of `ANSWERS`, or `KILLED`.
        phase: of `PHASES`.
        log_model: whether the checkpoint is to be uploaded, too.
    """

    kind: str
    phase: str
    log_model: bool = False


SHORT = (Case("silent", "end"), Case(KILLED, "middle"))

ALL = [
    *(Case(kind, phase) for kind in (*ANSWERS, KILLED) for phase in PHASES),
    *(Case(kind, "end", log_model=True) for kind in (*ANSWERS, KILLED)),
]


views: list[WandbLogger] = []
"""That of the run, in its process."""


def go_wrong(address: str, case: Case) -> None:
    """Turn the server, or kill W&B's process, in the process of the run."""
    if case.phase != "start" or case.kind == KILLED:
        views[-1].background.wait(30)  # what is to go wrong has begun
    if case.kind == KILLED:
        wandb_server.kill_service()
    else:
        urllib.request.urlopen(f"{address}/turn", timeout=5).close()


def prepare(address: str, case: Case, costs: Path) -> None:
    """In the process of a run: have it go wrong, and measure the seconds that the tracker takes."""
    _measure(costs)
    place = FINISH if case.phase == "end" else STEP
    number = 6 if case.phase == "middle" else 1
    if case.phase == "start" and case.kind != KILLED:
        go_wrong(address, case)
    else:
        at_call(place, number, partial(go_wrong, address, case))


def _measure(costs: Path) -> None:
    """Write the seconds that the run waited in the logger's calls, and then until the process ended."""
    seconds: dict[str, float] = {"ended": time.monotonic()}

    def timed(name: str) -> Callable[..., Any]:
        original = getattr(WandbLogger, name)

        def call(self: WandbLogger, *args: Any, **kwargs: Any) -> None:
            views.append(self)
            started = time.monotonic()
            original(self, *args, **kwargs)
            seconds["ended"] = time.monotonic()
            seconds[name] = seconds.get(name, 0.0) + seconds["ended"] - started

        return call

    for name in ("start", "log", "finish"):
        setattr(WandbLogger, name, timed(name))

    def write() -> None:
        seconds["exit"] = time.monotonic() - seconds.pop("ended")
        costs.write_text(json.dumps(seconds))

    atexit.register(write)


def survive(case: Case, folder: Path) -> dict[str, float]:
    """A whole run in which the tracker goes wrong. Returns what it cost, by the call, in seconds."""
    run, costs = folder / "run", folder / "costs.json"
    answer = ANSWERS.get(case.kind)
    with served(answer, TurningServer) as address:
        trial = Trial(
            *TINY,
            "logger=wandb",
            "logger.wandb.mode=online",
            f"logger.wandb.log_model={str(case.log_model).lower()}",
            f"hydra.run.dir={run}",
            output=folder / "output.txt",
            before=partial(prepare, address, case, costs),
            WANDB_API_KEY="0" * 40,
            WANDB_MODE="online",
            WANDB_BASE_URL=address,
        )
        assert trial.wait() == 0, trial.printed

    assert "Traceback" not in trial.printed, trial.printed
    assert trial.printed.count("wandb sync") == 1, trial.printed
    files = RunFiles(run)
    assert files.read_status()["status"] == "completed"
    assert files.read_metrics()[-1]["step"] == files.read_summary()["steps"] == 15
    assert list(files.wandb.glob("*run-*/*.wandb"))
    return json.loads(costs.read_text())


@pytest.mark.parametrize("cases", [SHORT, pytest.param(ALL, marks=pytest.mark.long)], ids=["short", "all"])
def test_a_bad_tracker_costs_five_seconds_and_no_run(cases: list[Case], tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    costs: dict[Case, float] = {}
    wrong = []
    for number, case in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            found = survive(case, folder)
        except (AssertionError, TimeoutError) as error:
            wrong.append(f"{case}: {error}")
            continue
        costs[case] = sum(found.values())
        print(case, {name: round(seconds, 2) for name, seconds in found.items()})

    dearest = max(costs, key=lambda case: costs[case])
    print(
        f"\ntracking: {len(costs)} of {len(cases)} bad servers and processes survived, "
        f"the dearest took {costs[dearest]:.1f} s ({dearest.kind}, {dearest.phase})"
    )
    assert not wrong, "\n".join(wrong)
    assert costs[dearest] < PATIENCE_SECONDS + OF_A_BUSY_MACHINE


def remove_folder(run: Path) -> None:
    shutil.rmtree(run / "tensorboard")


def put_file(run: Path) -> None:
    (run / "tensorboard").write_text("")


@pytest.mark.parametrize(
    ("place", "number", "action"),
    [("miniclip.runs.loggers.view:View.start", 1, put_file), (STEP, 6, remove_folder)],
)
def test_a_tensorboard_without_a_folder_is_told_once_and_hides_no_other_view(
    place: str, number: int, action: Callable[[Path], None], tmp_path: Path
) -> None:
    for module in ("tensorboard", "wandb"):
        pytest.importorskip(module, reason=f"needs the extra {module}")
    run = tmp_path / "run"
    trial = Trial(
        *TINY,
        "logger=[tensorboard,wandb]",
        "logger.wandb.mode=offline",
        f"hydra.run.dir={run}",
        output=tmp_path / "output.txt",
        before=before_call(place, number, partial(action, run)),
    )
    assert trial.wait() == 0, trial.printed
    assert "Traceback" not in trial.printed and trial.printed.count("Tensorboard shows no more") == 1
    files = RunFiles(run)
    assert files.read_status()["status"] == "completed"
    assert files.read_metrics()[-1]["step"] == 15
    assert list(files.wandb.glob("offline-run-*/*.wandb"))
