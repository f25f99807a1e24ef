"""A signal in any phase of a run: saved, the right exit status, a true status, and no process left."""

import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from miniclip import stop_signals
from miniclip.files import read_json
from miniclip.training.checkpoint import load_checkpoint
from tests.conftest import ROOT
from tests.reliability.trials import TINY, Trial, at_call, before_call, outcome, signal_group, signal_self

SIGNALS = stop_signals.SIGNALS

PHASES = {
    "build": ("miniclip.commands.job:build", (1,)),
    "caches": ("miniclip.data.decoding:_digest", range(1, 41)),
    "training": ("miniclip.training.step:TrainingStep.__call__", range(1, 7)),
    "validation": ("miniclip.training.validation:encode", (1, 2)),
    "saving": ("miniclip.training.checkpointer:save_checkpoint", (1, 2)),
    "figures": ("matplotlib.figure:Figure.savefig", (1, 2)),
    "evaluation": ("miniclip.evaluation.evaluation:Evaluation.run", (1,)),
}
"""A function of each phase, and its calls in a run of six steps at which a signal can come."""

SAVED_IN = ("training", "validation", "saving", "figures", "evaluation")
"""The phases in which there is something to save."""

SAVE = PHASES["saving"][0]
STEP = PHASES["training"][0]


@dataclass(frozen=True)
class Instant:
    """When a signal comes, and to whom.

    Attributes:
        call: of the phase's function, from 1.
        to_group: to the workers, too, as `timeout`, a shell and a cluster do.
    """

    signum: signal.Signals
    phase: str
    call: int
    num_workers: int
    to_group: bool


def settings_of(noise_folder: Path, folder: Path, *, num_workers: int = 0) -> list[str]:
    """A run of two epochs of three steps."""
    return [
        *TINY,
        "data=folder",
        f"data.root={noise_folder}",
        "data.val_fraction=0.25",
        "tokenizer.vocab_size=300",
        "trainer.batch_size=8",
        "trainer.budget.epochs=2",
        f"trainer.num_workers={num_workers}",
        "trainer.resume=auto",
        f"hydra.run.dir={folder}",
    ]


@pytest.fixture(scope="module")
def whole(noise_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that no signal reached."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    trial = Trial(*settings_of(noise_folder, folder), output=folder.with_suffix(".txt"))
    assert trial.wait() == 0, trial.printed
    return folder


def problems_of(instant: Instant, noise_folder: Path, folder: Path) -> list[str]:
    """Try one instant. Returns what went wrong."""
    folder.parent.mkdir(exist_ok=True)
    target, _ = PHASES[instant.phase]
    settings = settings_of(noise_folder, folder, num_workers=instant.num_workers)
    if instant.phase == "caches":
        settings += ["data.cache=disk", f"data.cache_dir={folder.with_suffix('.cache')}"]
    send = signal_group if instant.to_group else signal_self

    trial = Trial(
        *settings,
        output=folder.with_suffix(".txt"),
        before=before_call(target, instant.call, send(instant.signum)),
    )
    found = [] if trial.wait() == 128 + instant.signum else [f"exit status {trial.process.exitcode}"]
    if left_in_group(trial.pid):
        found.append("processes left")
    if "Traceback" in trial.printed or "Exception ignored" in trial.printed:
        found.append("traceback")

    status = read_json(folder / "status.json")
    if (status.get("status"), status.get("reason")) != ("interrupted", instant.signum.name):
        found.append(f"status {status}")
    if instant.phase in SAVED_IN and not is_saved(folder, instant):
        found.append("not saved")
    if list(folder.parent.glob(f"{folder.name}.cache/.pixels*")):
        found.append("half a cache left")
    return [f"{instant}: {problem}" for problem in found]


def is_saved(folder: Path, instant: Instant) -> bool:
    """Whether the last checkpoint is of the step that was in flight."""
    path = folder / "checkpoints" / "last.pt"
    if not path.is_file():
        return False
    step = load_checkpoint(path)["progress"]["step"]
    steps_per_epoch = 3
    expected = {"training": instant.call, "validation": steps_per_epoch * instant.call}
    if instant.phase == "saving":
        return step >= steps_per_epoch
    return step == expected.get(instant.phase, 2 * steps_per_epoch)


def left_in_group(group: int) -> bool:
    """Whether processes of a group are still there after a moment."""
    deadline = time.monotonic() + 10
    while is_there := any_in_group(group):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return is_there


def any_in_group(group: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has just ended
            continue
        if int(of_group) == group and state != "Z":
            return True
    return False


def instants(seed: int, repeats: int) -> list[Instant]:
    """Each signal in each phase, with and without workers, at random calls."""
    chance = random.Random(seed)
    found = []
    for phase, (_, calls) in PHASES.items():
        for signum in SIGNALS:
            for num_workers in (0, 2):
                for _ in range(repeats):
                    to_group = chance.random() < 0.5
                    found.append(Instant(signum, phase, chance.choice(calls), num_workers, to_group))
    chance.shuffle(found)
    return found


def told(problems: list[str], number: int) -> None:
    print(f"signals: {number - len({line.partition(':')[0] for line in problems})} of {number} right")
    assert not problems, "\n".join(problems)


SHORT = (
    Instant(signal.SIGTERM, "build", 1, 0, True),
    Instant(signal.SIGINT, "caches", 30, 0, True),
    Instant(signal.SIGTERM, "caches", 3, 2, False),
    Instant(signal.SIGINT, "training", 1, 2, True),
    Instant(signal.SIGTERM, "training", 5, 2, True),
    Instant(signal.SIGUSR1, "training", 2, 0, False),
    Instant(signal.SIGHUP, "training", 3, 2, True),
    Instant(signal.SIGTERM, "validation", 1, 2, True),
    Instant(signal.SIGUSR1, "saving", 1, 2, True),
    Instant(signal.SIGINT, "figures", 1, 0, True),
    Instant(signal.SIGHUP, "evaluation", 1, 0, False),
)


def test_signals_in_every_phase(noise_folder: Path, tmp_path: Path) -> None:
    problems = []
    for number, instant in enumerate(SHORT):
        # each in a folder of its own: trainer.resume=auto looks beside the run
        problems += problems_of(instant, noise_folder, tmp_path / str(number) / "run")
    told(problems, len(SHORT))


@pytest.mark.long
def test_each_signal_in_each_phase_twice(noise_folder: Path, tmp_path: Path) -> None:
    all_instants = instants(seed=0, repeats=2)
    problems = []
    for number, instant in enumerate(all_instants):
        # each in a folder of its own: trainer.resume=auto looks beside the run
        problems += problems_of(instant, noise_folder, tmp_path / str(number) / "run")
    told(problems, len(all_instants))


@pytest.mark.parametrize("phase", ["training", "figures"])
def test_after_a_signal_a_run_ends_as_if_there_had_been_none(
    phase: str, noise_folder: Path, whole: Path, tmp_path: Path
) -> None:
    instant = Instant(signal.SIGTERM, phase, 1, 2 if phase == "training" else 0, True)
    folder = tmp_path / "run"
    assert problems_of(instant, noise_folder, folder) == []
    again = Trial(*settings_of(noise_folder, folder), output=tmp_path / "again.txt")
    assert again.wait() == 0, again.printed
    assert outcome(folder) == outcome(whole)
    assert (folder / "figures" / "retrieval.png").is_file()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["_multiarray_umath", "libtorch_cpu"])
def test_a_signal_during_imports_ends_them(signum: signal.Signals, module: str, tmp_path: Path) -> None:
    if not Path("/proc/self/maps").is_file():
        pytest.skip("needs /proc, which tells what a process has loaded")
    command = [sys.executable, str(ROOT / "run.py"), *TINY, f"hydra.run.dir={tmp_path / 'run'}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while module not in Path(f"/proc/{process.pid}/maps").read_text():
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signum)
        assert process.stdout is not None
        assert process.stdout.read() == b"Stopped.\n"
    assert process.returncode == 128 + signum


def stop_twice() -> None:
    """Be signaled in a step, and again while that is saved."""
    at_call(STEP, 5, signal_self(signal.SIGTERM))
    at_call(SAVE, 2, signal_again)  # the first one was of an epoch


def signal_again() -> None:
    time.sleep(stop_signals.TWICE_SECONDS)
    signal_self(signal.SIGINT)()


def test_a_second_signal_stops_at_once_and_the_checkpoint_before_is_whole(
    noise_folder: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    settings = settings_of(noise_folder, folder, num_workers=2)
    trial = Trial(*settings, output=tmp_path / "stopped.txt", before=stop_twice)
    assert trial.wait() == 130 and "Traceback" not in trial.printed
    assert not left_in_group(trial.pid)
    assert read_json(folder / "status.json")["status"] == "interrupted"
    assert load_checkpoint(folder / "checkpoints" / "last.pt")["progress"]["step"] == 3

    again = Trial(*settings, output=tmp_path / "again.txt")
    assert again.wait() == 0, again.printed
    assert outcome(folder) == outcome(whole)


def test_a_slurm_job_whose_time_is_up_is_queued_again(noise_folder: Path, tmp_path: Path) -> None:
    controller = tmp_path / "bin" / "scontrol"
    controller.parent.mkdir()
    controller.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/told\n')
    controller.chmod(0o755)
    trial = Trial(
        *settings_of(noise_folder, tmp_path / "run"),
        output=tmp_path / "output.txt",
        before=before_call(STEP, 2, signal_self(signal.SIGUSR1)),
        PATH=f"{controller.parent}:/usr/bin:/bin",
        SLURM_JOB_ID="17",
    )
    assert trial.wait() == 0 and "Slurm's job 17 is queued again." in trial.printed
    assert (tmp_path / "told").read_text() == "requeue 17\n"
    assert read_json(tmp_path / "run" / "status.json")["reason"] == "SIGUSR1"


def test_a_completed_run_is_left_alone(noise_folder: Path, whole: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in kept_files(whole)}
    again = Trial(*settings_of(noise_folder, whole), output=tmp_path / "again.txt")
    assert again.wait() == 0 and "Completed already" in again.printed
    assert {path: path.read_bytes() for path in kept_files(whole)} == before


def kept_files(folder: Path) -> list[Path]:
    """All files of a run but its log and Hydra's own."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".hydra" not in path.parts]
    return [path for path in files if path.suffix != ".log"]


def test_a_sweep_ends_with_the_job_in_flight_and_goes_on_with_it(
    noise_folder: Path, tmp_path: Path
) -> None:
    settings = [
        word
        for word in settings_of(noise_folder, tmp_path)
        if not word.startswith(("hydra.run.dir", "trainer.resume"))
    ]
    words = ["-m", *settings, "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    stop = before_call(STEP, 8, signal_group(signal.SIGTERM))  # the second job's second step
    trial = Trial(*words, output=tmp_path / "stopped.txt", before=stop)
    assert trial.wait() == 143, trial.printed
    states = [read_json(path)["status"] for path in sorted(tmp_path.glob("sweep/*/status.json"))]
    assert states == ["completed", "interrupted"]

    again = Trial(*words, output=tmp_path / "again.txt")
    assert again.wait() == 0, again.printed
    assert "Done already" in again.printed and "at step 2" in again.printed


LAUNCHERS = {"joblib": [], "submitit_local": ["hydra.sweeper.max_batch_size=2"]}
"""Launchers of worker processes on this machine, and what has them run two jobs at a time."""


@pytest.mark.long
@pytest.mark.parametrize("to_group", [False, True])
@pytest.mark.parametrize("signum", SIGNALS)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_jobs_in_worker_processes_stop_with_their_launcher_and_go_on(
    launcher: str, signum: signal.Signals, to_group: bool, noise_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    sweep = tmp_path / "sweep"
    words = launched_sweep(noise_folder, sweep, launcher)
    trial = Trial(*words, output=tmp_path / "stopped.txt", OMP_NUM_THREADS="1")
    wait_for_steps(sweep, num_jobs=2)
    trial.send(signum, to_group=to_group)

    assert trial.wait() == 128 + signum, trial.printed
    assert not left_in_group(trial.pid)
    states = [read_json(path) for path in sorted(sweep.glob("*/status.json"))]
    told = [(state["status"], state["reason"]) for state in states]
    assert told == [("interrupted", signum.name)] * 2, trial.printed
    assert all(
        load_checkpoint(path)["progress"]["step"] > 0 for path in sweep.glob("*/checkpoints/last.pt")
    )

    again = Trial(*words, output=tmp_path / "again.txt", OMP_NUM_THREADS="1")
    assert again.wait(300) == 0, again.printed
    logs = [path.read_text() for path in sorted(sweep.glob("*/train.log"))]
    assert ["Resumed from" in log for log in logs] == [True, True, False]


def launched_sweep(noise_folder: Path, folder: Path, launcher: str) -> list[str]:
    """Three jobs of sixty epochs, two at a time."""
    run = [
        word
        for word in settings_of(noise_folder, folder)
        if not word.startswith(("hydra.run.dir", "trainer.resume", "trainer.budget"))
    ]
    sweep = ["seed=0,1,2", f"hydra.sweep.dir={folder}", f"hydra/launcher={launcher}", *LAUNCHERS[launcher]]
    return ["-m", *run, "trainer.budget.epochs=60", *sweep]


def wait_for_steps(sweep: Path, *, num_jobs: int) -> None:
    """Wait until so many jobs have written the numbers of an epoch."""
    deadline = time.monotonic() + 120
    while sum(path.stat().st_size > 0 for path in sweep.glob("*/metrics.jsonl")) < num_jobs:
        assert time.monotonic() < deadline
        time.sleep(0.02)
