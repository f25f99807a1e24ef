"""Names of runs and jobs: what is swept comes first."""

from pathlib import Path

import pytest

from miniclip.config.compose import LONGEST_NAME, compose, folder_name, short_overrides
from tests.conftest import TINY
from tests.in_process import train_in_process

FIXED = [
    "encoder.text.attention.k=4",
    "tokenizer.vocab_size=300",
    "context_length=16",
    "trainer.accumulate_steps=2",
    "optimizer.base.weight_decay=0.05",
    "encoder.image.freeze_batch_norm_stats=true",
]

TOO_LARGE = ["trainer.batch_size=100000", "trainer.budget.epochs=1"]
"""Ends each job before it trains."""


def names(folder: Path) -> list[str]:
    """Folders of jobs, without their numbers."""
    return [path.parent.name.partition("_")[2] for path in sorted(folder.glob("*/job.json"))]


def test_swept_settings_come_first_and_are_never_cut() -> None:
    typed = ["optimizer.rho=0.05", *FIXED, "+seed=1"]
    name = short_overrides(typed, ["seed", "optimizer.rho"])
    assert name.startswith("rho=0.05,seed=1,") and len(name) <= LONGEST_NAME
    assert short_overrides(["a.b=1", "c=2"]) == "b=1,c=2"
    assert short_overrides(["data.root=/a/b"], ["data.root"]) == "default"


@pytest.mark.parametrize("value", ["0.", "x...", "."])
def test_no_name_ends_in_a_dot_which_windows_drops(value: str) -> None:
    assert not short_overrides([f"optimizer.rho={value}"]).endswith(".")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("miniclip", "miniclip"),
        ("my run, again", "my run, again"),
        ("a:b", "a-b"),
        (r'<a>|"b"\c?*', "-a---b--c--"),
        ("study/rho 0.05", "study/rho 0.05"),
        ("../v1./x ", "../v1/x"),
    ],
)
def test_a_run_has_a_folder_that_every_system_can_make(name: str, folder: str) -> None:
    assert folder_name(name) == folder


def test_the_name_of_a_run_stays_and_its_folder_is_safe(tmp_path: Path) -> None:
    done = train_in_process(*TINY, "name='a:b'", "trainer.budget.steps=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (config,) = tmp_path.glob("outputs/a-b/*/config.yaml")
    assert "name: a:b" in config.read_text()


def test_jobs_of_a_sweep_differ_in_what_is_swept(tmp_path: Path) -> None:
    settings = [*TINY, *TOO_LARGE, *FIXED, f"hydra.sweep.dir={tmp_path}"]
    done = train_in_process("-m", "optimizer.rho=0,0.05", *settings)
    assert "2 jobs not completed" in done.stderr
    first, second = names(tmp_path)
    assert first.startswith("rho=0,") and second.startswith("rho=0.05,")


def test_jobs_of_a_study_are_named_by_its_axes(tmp_path: Path) -> None:
    train_in_process(*TINY, "experiments=mlp_width", *TOO_LARGE, "seed=0", f"hydra.sweep.dir={tmp_path}")
    assert [name.partition(",")[0] for name in names(tmp_path)] == [
        f"expansion={n}" for n in (0, 1, 2, 4, 8)
    ]


def test_jobs_of_a_search_are_named_by_what_it_chooses(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "optimizer.rho=interval(0.01,0.1)"]
    train_in_process("-m", *TINY, *TOO_LARGE, *FIXED, *search, f"hydra.sweep.dir={tmp_path}")
    assert len(names(tmp_path)) == 2
    assert all(name.startswith("rho=0.0") for name in names(tmp_path))


@pytest.mark.parametrize("crop", ["data.crop=shifted", "data.crop=eval", "experiments=speedrun"])
def test_a_crop_scale_that_no_crop_reads_is_told(crop: str, caplog: pytest.LogCaptureFixture) -> None:
    compose(crop)
    compose("data.crop_scale=[0.3,1]")
    assert not caplog.records
    compose(crop, "data.crop_scale=[0.3,1]")
    assert "data.crop_scale=[0.3,1] has no effect with data.crop=" in caplog.text


def test_a_run_tells_of_a_crop_scale_that_no_crop_reads(tmp_path: Path) -> None:
    settings = [*TINY, *TOO_LARGE, "data.crop_scale=[0.3,1]", "data.crop=shifted"]
    done = train_in_process(*settings, cwd=tmp_path)
    assert "data.crop_scale=[0.3,1] has no effect" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("seed=${oc.env:NO_SUCH_VARIABLE}", "Environment variable 'NO_SUCH_VARIABLE' not found"),
        ("optimizer.rho=${no_such_setting}", "Interpolation key 'no_such_setting' not found full_key: opt"),
        ("optimizer.rho=${oc.env:A_NUMBER}", "must be a number; ${oc.decode:${oc.env:NAME}} reads"),
    ],
)
def test_a_value_from_elsewhere_is_told_by_the_setting_that_has_it(
    typed: str, reason: str, tmp_path: Path
) -> None:
    key = typed.partition("=")[0]
    done = train_in_process(*TINY, typed, cwd=tmp_path, A_NUMBER="0.1")
    assert done.returncode == 1 and done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1
    assert key in done.stderr and reason in done.stderr
