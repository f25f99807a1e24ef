"""Sweeps that fail, are killed and go on; every experiment trains."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from miniclip.composing import compose
from miniclip.errors import UserError
from miniclip.sweep import Sweep, job_key
from tests.conftest import ROOT, TINY, kill_in_its_first_job, run_miniclip

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


def test_a_sweep_outlives_failures_and_being_killed(tmp_path: Path) -> None:
    killed, clean = tmp_path / "killed", tmp_path / "clean"
    kill_in_its_first_job(killed, *JOBS)
    assert [job.status for job in Sweep(killed).jobs()] == ["killed"]
    outputs = {}
    for folder in (killed, clean):
        done = run_miniclip("-m", *JOBS, f"hydra.sweep.dir={folder}")
        outputs[folder] = done.stdout
        assert done.returncode == 1
        assert "4 jobs are not completed:" in done.stderr
        assert "is larger than the training set of 40 images" in done.stderr
        assert "max_skipped_steps=2 updates in a row were skipped" in done.stderr
        expected = ["completed", "failed", "completed", *["failed"] * 3]
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


def test_a_job_without_memory_leaves_the_others_running(tmp_path: Path) -> None:
    done = run_miniclip(
        "-m", *TINY, "optimizer=adamw", "embed_dim=400000000,32", f"hydra.sweep.dir={tmp_path}"
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "This job failed, the others go on: Out of memory: " in done.stdout
    assert [row["status"] for row in table(tmp_path)] == ["failed", "completed"]
    (failed,) = (line for line in done.stderr.splitlines() if line.startswith("0_"))
    assert "failed (Out of memory: " in failed and "Lower trainer.batch_size" in failed


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml")))
def test_every_experiment_trains_two_steps(experiment: str, tmp_path: Path, real_data: Path) -> None:
    roots = {
        "flickr30k": ["data=flickr8k", f"data.root={real_data / 'flickr8k_1k'}"],
        "time_to_recall": [f"data.root={real_data / 'fashion'}"],
    }
    small = ["encoder.image.weights=null", "trainer.batch_size=4", "data.limit=40", "trainer.num_workers=0"]
    if experiment in ("flickr30k", "openai_clip"):
        small += ["image_size=64"]
    if experiment != "sam_variants":
        small += ["trainer.budget.steps=2"]
    settings = [*roots.get(experiment, []), *small, "++forward_passes=4", f"hydra.run.dir={tmp_path}"]
    done = run_miniclip(f"experiments={experiment}", "hydra.mode=RUN", *settings)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 2


@pytest.mark.parametrize("experiment", ["rho_sweep", "mlp_width", "linformer_k", "sam_variants"])
def test_a_study_is_checked_before_it_starts(experiment: str, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    done = run_miniclip(f"experiments={experiment}", "trainer.batch_size=-1", f"hydra.sweep.dir={folder}")
    assert done.returncode == 1 and "trainer.batch_size=-1" in done.stderr
    assert not list(folder.glob("*/job.json"))


def test_a_study_is_one_command(tmp_path: Path) -> None:
    """Batches larger than the data end each job before it trains."""
    folder = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    done = run_miniclip("experiments=temperature_study", "trainer.batch_size=99999", folder)
    assert "9 jobs are not completed" in done.stderr
    keys = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["keys"]
    assert len(keys) == 9 == len(table(tmp_path / "sweep"))


def test_a_key_is_what_is_computed_not_where() -> None:
    def key(*overrides: str) -> str:
        from omegaconf import OmegaConf

        return job_key(OmegaConf.to_container(compose(*TINY, *overrides), resolve=True))  # type: ignore[arg-type]

    plain = key()
    same = [
        "name=other",
        "logger=wandb",
        "trainer.num_workers=2",
        "trainer.resume=/a/b",
        "data.cache=memory",
    ]
    assert {key(change) for change in same} == {plain}
    others = [
        "seed=1",
        "optimizer.rho=0.1",
        "trainer.budget.epochs=9",
        "data.limit=30",
        "encoder/image=resnet34",
    ]
    assert len({key(change) for change in others} | {plain}) == len(others) + 1
    here, there = (key("data=flickr8k", f"data.root={root}/flickr") for root in ("/here", "/there"))
    assert here == there != key("data=flickr8k", "data.root=/here/coco")


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


def test_a_folder_of_another_sweep_is_refused(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    sweep.claim(["a", "b"])
    sweep.claim(["b", "c"])
    with pytest.raises(UserError, match="holds another sweep, of 3 jobs and none of these 1"):
        sweep.claim(["d"])
    assert json.loads((tmp_path / "sweep.json").read_text())["keys"] == ["a", "b", "c"]
