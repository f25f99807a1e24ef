"""All jobs of a sweep are checked before the first one starts."""

from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.in_process import train_in_process


@pytest.mark.parametrize("experiment", ["rho_sweep", "mlp_width", "linformer_k", "sam_variants"])
def test_a_study_is_checked_before_it_starts(experiment: str, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    done = train_in_process(
        f"experiments={experiment}", "trainer.batch_size=-1", f"hydra.sweep.dir={folder}"
    )
    assert done.returncode == 1 and "trainer.batch_size=-1" in done.stderr
    assert not list(folder.glob("*/job.json"))


def test_jobs_that_one_result_would_stand_for_are_refused(tmp_path: Path) -> None:
    done = train_in_process("-m", *TINY, "trainer.num_workers=0,1", f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 1 and not list(tmp_path.glob("*/job.json"))
    assert "computes the same as job" in done.stderr and "names, places or speed only" in done.stderr


def test_a_sweep_with_one_wrong_job_does_not_start(tmp_path: Path) -> None:
    done = train_in_process("-m", *TINY, "trainer.budget.steps=2", "optimizer.rho=0.1,-0.1", cwd=tmp_path)
    assert done.returncode == 1
    assert "optimizer.rho=-0.1" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("outputs/miniclip/*/*/metrics.jsonl"))


def test_a_launcher_that_is_not_installed_is_one_clear_line(tmp_path: Path) -> None:
    target = "hydra.launcher._target_=no_plugins.no_launcher.Launcher"
    settings = [*TINY, "seed=0,1", "hydra/launcher=joblib", target, f"hydra.sweep.dir={tmp_path}"]
    done = train_in_process("-m", *settings)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert 'hydra/launcher=joblib needs more: pip install -e ".[sweeps]"' in done.stderr


@pytest.mark.parametrize(
    ("axis", "of_optuna", "reason"),
    [
        ("seed=range(5,0)", False, "stands for no value"),
        ("optimizer=glob(no_such*)", False, "stands for no value"),
        ("optimizer.rho=range(0,0)", True, "stands for no value"),
        ("optimizer.rho=interval(0.1,0.0)", True, "low <= high"),
        ("optimizer.base.lr=tag(log,interval(0.0,0.01))", True, "low > 0"),
    ],
)
def test_an_axis_without_values_is_one_clear_line(
    axis: str, of_optuna: bool, reason: str, tmp_path: Path
) -> None:
    sweeper = ["hydra/sweeper=optuna"] if of_optuna else []
    folder = tmp_path / "sweep"
    done = train_in_process("-m", *TINY, *sweeper, axis, f"hydra.sweep.dir={folder}")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert axis in done.stderr and reason in done.stderr
    assert not folder.exists()


@pytest.mark.parametrize(
    "count",
    [
        ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=0"),
        ("hydra/launcher=joblib", "hydra.launcher.n_jobs=0"),
        ("hydra/launcher=joblib", "hydra.launcher.n_jobs=two"),
        ("hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=0"),
    ],
)
def test_a_number_of_jobs_that_is_none_is_one_clear_line(count: tuple[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    done = train_in_process("-m", *TINY, *count, "seed=0,1", f"hydra.sweep.dir={folder}")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"Error: {count[1]}: must be a whole number of at least 1" in done.stderr
    assert not folder.exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("seed=0,1", "data.cache_dir=${oc.env:NO_SUCH_VARIABLE}"), "'NO_SUCH_VARIABLE' not found"),
        (("seed=0,1", "data.cache_dir=of_${hydra:job.num}", "optimizer.rho=-1"), "optimizer.rho=-1: must"),
        (("embed_dim=32,33", "encoder.text.width=${embed_dim}"), "embed_dim=33"),
        (("embed_dim=32,64", "seed=${hydra:runtime.no_such}"), "seed=null: must be a whole number"),
    ],
)
def test_jobs_are_checked_also_where_values_are_looked_up(
    words: tuple[str, str], reason: str, tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    done = train_in_process("-m", *TINY, *words, f"hydra.sweep.dir={folder}")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: job ") and reason in done.stderr
    assert not folder.exists()


def test_each_job_of_a_sweep_may_look_up_its_number(tmp_path: Path) -> None:
    settings = [*TINY, "trainer.budget.steps=1", "seed=${hydra:job.num},7", "trainer.num_workers=0"]
    done = train_in_process("-m", *settings, f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0 and "SweepGuard" not in done.stderr
    assert len(list(tmp_path.glob("*/job.json"))) == 2
