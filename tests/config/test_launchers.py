"""Hydra's launchers and sweepers, each with real jobs."""

import csv
import importlib.util
import json
import math
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from miniclip.config.optuna_sweeper import OptunaSweeper, best_of, open_study, result_line
from miniclip.files import locked
from miniclip.runs import DamagedFile, RunDirectory
from miniclip.runs.sweep import NumJobs, Sweep
from tests.conftest import ROOT, TINY, health_of, kill_in_its_first_job, run_miniclip
from tests.in_process import train_in_process

SMALL = (*TINY[:-1], "trainer.budget.epochs=1", "optimizer=adamw")


def launched(folder: Path, *settings: str, **env: str) -> Sequence[dict[str, str]]:
    done = run_miniclip("-m", *SMALL, *settings, f"hydra.sweep.dir={folder}", **env)
    assert done.returncode == 0, done.stderr
    return table(folder)


def table(folder: Path) -> Sequence[dict[str, str]]:
    """The rows of a sweep's table."""
    with open(folder / "summary.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def asked_of_slurm() -> list[str]:
    """What a job asks of a Slurm of one small node; skips where there is no Slurm."""
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True).returncode != 0:
        pytest.skip("no Slurm controller answers")
    asked = {"cpus_per_task": 1, "mem_gb": "null", "gpus_per_node": "null"}
    return [f"hydra.launcher.{key}={value}" for key, value in asked.items()]


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm", "ray"])
def test_jobs_of_a_launcher_end_up_in_one_table(launcher: str, tmp_path: Path) -> None:
    plugin = f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher"
    if importlib.util.find_spec("hydra_plugins") is None or importlib.util.find_spec(plugin) is None:
        pytest.skip(f"{plugin} is not installed")
    settings = ["seed=0,1", f"hydra/launcher={launcher}"]
    if launcher == "submitit_slurm":
        settings += asked_of_slurm()
    gone = {"RAY_ADDRESS": "127.0.0.1:1"}  # a cluster that somebody forgot; Ray would wait for it
    rows = launched(tmp_path, *settings, OMP_NUM_THREADS="1", **gone)
    assert [(row["job"], row["status"]) for row in rows] == [("0", "completed"), ("1", "completed")]
    assert "seed=0" in rows[0]["overrides"] and "seed=1" in rows[1]["overrides"]
    processes = {json.loads(path.read_text())["pid"] for path in tmp_path.glob("*/status.json")}
    assert len(processes) == 2 and os.getpid() not in processes


@pytest.fixture
def ray_cluster() -> Iterator[str]:
    """The address of a cluster of this machine with two CPUs, which is stopped in the end."""
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    ray = str(Path(sys.executable).with_name("ray"))
    own_folder = tempfile.mkdtemp(prefix="ray-")  # short: paths of sockets are in it
    port, port_of_clients = (_free_port() for _ in range(2))
    address = f"127.0.0.1:{port}"
    head = [ray, "start", "--head", "--block", "--num-cpus=2", f"--port={port}"]
    head += [f"--ray-client-server-port={port_of_clients}", "--include-dashboard=false"]
    head += ["--disable-usage-stats", f"--temp-dir={own_folder}"]
    # workers import what this process does
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    settings = {**os.environ, **paths, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    process = subprocess.Popen(head, env=settings, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert any("Ray runtime started" in line for line in process.stdout)
        yield address
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(own_folder, ignore_errors=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def _answers(address: str) -> bool:
    host, _, port = address.partition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


@pytest.mark.long
def test_the_jobs_of_a_sweep_run_at_once_on_a_ray_cluster(ray_cluster: str, tmp_path: Path) -> None:
    """The cluster stays when the sweep is over, as it is its user's."""
    address = f"hydra.launcher.ray.init.address={ray_cluster}"
    rows = launched(tmp_path, "seed=0,1", "hydra/launcher=ray", address, OMP_NUM_THREADS="1")
    assert [(row["job"], row["status"]) for row in rows] == [("0", "completed"), ("1", "completed")]
    assert "seed=0" in rows[0]["overrides"] and "seed=1" in rows[1]["overrides"]
    assert ran_at_once(tmp_path) and _answers(ray_cluster)


def ran_at_once(folder: Path) -> bool:
    """Whether the two jobs of a sweep ran at the same time."""
    times = []
    for path in folder.glob("*/job.json"):
        times.append((path.stat().st_mtime, (path.parent / "summary.json").stat().st_mtime))
    (first_start, first_end), (second_start, second_end) = times
    return max(first_start, second_start) < min(first_end, second_end)


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["submitit_local", "submitit_slurm"])
def test_the_tasks_of_a_job_train_one_run(launcher: str, tmp_path: Path) -> None:
    """What two tasks cannot share fails alone, and each job has one log, of its first task."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    tasks = [f"hydra/launcher={launcher}", "hydra.launcher.tasks_per_node=2"]
    if launcher == "submitit_slurm":
        tasks += asked_of_slurm()
    sweep = ["trainer.batch_size=8,9", f"hydra.sweep.dir={tmp_path}"]
    done = run_miniclip("-m", *SMALL, *tasks, *sweep, OMP_NUM_THREADS="1")
    assert done.returncode == 1, done.stderr
    assert [row["status"] for row in table(tmp_path)] == ["completed", "failed"]
    (refused,) = tmp_path.glob("1_*/status.json")
    assert "trainer.batch_size=9: must be a multiple of 2" in json.loads(refused.read_text())["reason"]

    (log,) = tmp_path.glob("0_*/train.log")
    assert log.read_text().count("Everything is in") == 1
    assert log.read_text().count("Job completed successfully") == 1  # of submitit, in each task
    outputs = list(tmp_path.glob(".submitit/*/*_1_log.out"))
    assert len(outputs) == 2
    assert not any("epoch" in path.read_text() for path in outputs)


@pytest.mark.long
def test_joblib_runs_two_jobs_at_once(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    launched(tmp_path, "seed=0,1", "hydra/launcher=joblib")
    assert ran_at_once(tmp_path)


@pytest.mark.long
def test_optuna_goes_on_with_its_study(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    search = [
        "optimizer.lr=tag(log,interval(1e-4,1e-2))",
        "seed=range(0,3)",
        "projection=mlp,linear",
        "hydra/sweeper=optuna",
    ]
    assert len(launched(tmp_path, *search, "hydra.sweeper.n_trials=2")) == 2
    rows = launched(tmp_path, *search, "hydra.sweeper.n_trials=3")
    assert [row["status"] for row in rows] == ["completed"] * 3
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log"))
    study = optuna.load_study(study_name="sweep", storage=optuna.storages.JournalStorage(backend))
    assert study.direction.name == "MAXIMIZE"
    for trial, row in zip(study.trials, rows, strict=True):
        # by chance the features of so short a job do not spread
        told = "pruned" if trial.value is None else f"{trial.value:.1f}"
        assert told == ("pruned" if row["features"] else row["rsum"])
        assert 1e-4 <= trial.params["optimizer.lr"] <= 1e-2 and trial.params["seed"] in (0, 1, 2)
        assert f"optimizer.lr={trial.params['optimizer.lr']}" in row["overrides"]


class Launch(NamedTuple):
    """Jobs that a search began at a time, and how many were known of then."""

    jobs: Sequence[Sequence[str]]
    num_jobs: NumJobs


@pytest.fixture
def launches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sequence[Launch]:
    """The launches of a search in `tmp_path`, whose jobs end at once."""
    seen: list[Launch] = []

    class Launcher:
        def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            seen.append(Launch(jobs, Sweep(tmp_path).num_jobs()))
            return [JobReturn(status=JobStatus.COMPLETED, _return_value=1.0) for _ in jobs]

    monkeypatch.setattr(Plugins, "instantiate_launcher", lambda *_, **__: Launcher())
    return seen


def test_a_search_heeds_the_command_line_where_a_study_has_the_same_axis(
    launches: Sequence[Launch], tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    study = ["experiments=mlp_width", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2"]
    done = train_in_process("-m", *SMALL, *study, "seed=7", f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    jobs = [job for launch in launches for job in launch.jobs]
    seeds = [word for job in jobs for word in job if word.startswith("seed=")]
    assert seeds == ["seed=7", "seed=7"]


@pytest.mark.long
def test_a_search_that_was_killed_goes_on_with_its_trial(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    search = ["optimizer.lr=interval(1e-3,2e-3)", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2"]
    longer = [*search, "trainer.budget.epochs=3"]
    kill_in_its_first_job(tmp_path, *SMALL, *longer)
    rows = launched(tmp_path, *longer)
    assert [row["status"] for row in rows] == ["completed"] * 2
    assert "Resumed from" in (tmp_path / Sweep(tmp_path).jobs()[0].path / "train.log").read_text()


def test_the_best_settings_of_a_search_can_be_typed_again() -> None:
    optuna = pytest.importorskip("optuna")
    choices = ['"a b"', "[0.9,0.98]"]
    study = optuna.create_study()
    study.optimize(lambda trial: len(trial.suggest_categorical("name", choices)), n_trials=1)
    found = result_line(study.best_trial)
    (word,) = shlex.split(found.partition(" with ")[2])
    assert word.startswith("name=") and word.removeprefix("name=") in choices


def test_the_best_of_a_search_is_no_job_whose_features_do_not_spread(tmp_path: Path) -> None:
    """Where there is another; a trial whose settings an earlier one had is that one's job."""
    optuna = pytest.importorskip("optuna")
    study = optuna.create_study(direction="maximize")
    rates = {"optimizer.lr": optuna.distributions.FloatDistribution(0, 1)}
    for lr, value in ((0.5, 38.0), (0.1, 30.0), (0.5, 38.0)):
        trial = optuna.trial.create_trial(params={"optimizer.lr": lr}, distributions=rates, value=value)
        study.add_trial(trial)

    for number, (lr, rank) in enumerate(((0.5, 1.3), (0.1, 9.0))):
        run = RunDirectory(tmp_path / f"{number}_lr={lr}")
        run.write_job(key=str(number), overrides=["data.limit=9", f"optimizer.lr={lr}"])
        run.write_status("completed")
        run.write_summary({"best_rsum": 1.0, "best": health_of(rank=rank)})
    assert best_of(study.trials, Sweep(tmp_path)).number == 1
    assert best_of(study.trials[:1], Sweep(tmp_path)).number == 0
    assert best_of(study.trials, Sweep(tmp_path / "nothing")).value == 38.0


def test_a_search_learns_nothing_good_from_jobs_that_diverged_or_collapsed(tmp_path: Path) -> None:
    """They count as worse than any other, not as what they reached, nor as never tried."""
    optuna = pytest.importorskip("optuna")
    ends = [("completed", 9.0, 30.0), ("completed", 1.3, 38.0), ("diverged", 1.3, math.nan)]

    class Launcher:
        def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            for number, (job, (status, rank, _)) in enumerate(zip(jobs, ends, strict=True)):
                run = RunDirectory(tmp_path / str(number))
                run.write_job(key=str(number), overrides=list(job))
                run.write_status(status)  # type: ignore[arg-type]
                run.write_summary({"best": health_of(rank=rank)})
            return [JobReturn(status=JobStatus.COMPLETED, _return_value=value) for *_, value in ends]

    sampler = optuna.samplers.RandomSampler
    sweeper = OptunaSweeper(n_trials=9, n_jobs=3, sampler=sampler, seed=0, params=None)
    sweeper.launcher = Launcher()  # type: ignore[assignment]
    sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    study = open_study(tmp_path / "study.log")
    rates = {"optimizer.lr": optuna.distributions.FloatDistribution(0, 1)}
    sweeper._run(study, [study.ask(rates) for _ in ends], ["seed=1"])
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "PRUNED"]


def test_a_search_that_was_killed_while_it_chose_trains_no_job_of_defaults(
    launches: Sequence[Launch], tmp_path: Path
) -> None:
    """What Optuna had not chosen whole is none of the jobs that were asked for."""
    optuna = pytest.importorskip("optuna")
    open_study(tmp_path / "study.log").ask({"seed": optuna.distributions.IntDistribution(0, 1)})
    axes = ["seed=range(0,2)", "optimizer.lr=interval(1e-3,2e-3)"]
    search = ["-m", *SMALL, *axes, "hydra/sweeper=optuna", f"hydra.sweep.dir={tmp_path}"]
    done = train_in_process(*search, "hydra.sweeper.n_trials=2")
    assert done.returncode == 0, done.stderr
    jobs = [job for launch in launches for job in launch.jobs]
    assert len(jobs) == 2 and all("optimizer.lr=" in " ".join(job) for job in jobs)
    assert [launch.num_jobs for launch in launches] == [(2, 1), (2, 0)]

    done = train_in_process(*search, "hydra.sweeper.n_trials=1")
    assert done.returncode == 0 and len(launches) == 2 and Sweep(tmp_path).num_jobs() == (1, 0)


def test_a_search_goes_on_with_half_a_line_in_its_journal(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    journal = tmp_path / "study.log"
    open_study(journal).ask({"seed": optuna.distributions.IntDistribution(0, 9)})
    with open(journal, "a", encoding="utf-8") as file:
        file.write('{"op_code":6,"worker')
    open_study(journal).tell(0, 12.0)
    assert open_study(journal).best_value == 12.0

    journal.write_text("no journal\n")
    with pytest.raises(DamagedFile, match=r"study\.log is damaged \(.*\)\. Remove it"):
        open_study(journal)


def test_a_search_is_one_process(tmp_path: Path) -> None:
    """A second one would take the jobs of the first for interrupted, and tell Optuna that they failed."""
    pytest.importorskip("optuna")
    search = ["hydra/sweeper=optuna", "seed=0,1", f"hydra.sweep.dir={tmp_path}"]
    with locked(tmp_path / ".search.lock"):
        done = train_in_process("-m", *SMALL, *search)
    assert done.returncode == 1 and not list(tmp_path.glob("*/job.json"))
    assert f"Error: Another process searches in {tmp_path}" in done.stderr


def test_the_ends_of_a_search_are_checked_before_it_starts(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    search = ["hydra/sweeper=optuna", "optimizer.lr=interval(-1.0,1e-2)"]
    done = train_in_process("-m", *SMALL, *search, f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 1 and "optimizer.lr=-1.0" in done.stderr
    assert not list(tmp_path.glob("*/job.json"))


def test_each_job_has_a_gpu_while_there_are_enough(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    with ExitStack() as jobs:
        first = jobs.enter_context(sweep.own_device(2))
        with sweep.own_device(2) as second:
            assert (first, second) == ("cuda:0", "cuda:1")
            with sweep.own_device(2) as third:
                assert third == "auto"
        with sweep.own_device(2) as again:
            assert again == "cuda:1"
    with sweep.own_device(0) as cpu:
        assert cpu == "auto"


def test_what_slurm_refuses_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    for name in ("sbatch", "srun", "sacct"):
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text("#!/bin/sh\necho 'sbatch: error: Invalid generic resource' >&2\nexit 1\n")
        command.chmod(0o755)

    words = [
        "-m",
        *SMALL,
        "seed=0,1",
        "hydra/launcher=submitit_slurm",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
    ]
    done = run_miniclip(*words, PATH=f"{command.parent}:{os.environ['PATH']}")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "Slurm does not take the jobs (sbatch: error: Invalid generic resource)" in done.stderr
