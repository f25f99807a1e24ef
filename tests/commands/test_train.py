"""Starting a training: who starts it, and the names that were typed."""

import os
import sys
from pathlib import Path

import pytest

from miniclip.commands.train import train
from miniclip.runs import RunDirectory
from tests.conftest import TINY
from tests.in_process import train_in_process, undone


def test_an_old_name_is_told_on_the_command_line() -> None:
    result = train_in_process("--cfg", "job", "optimizer.every=5", "data.eval_crop=centre")
    assert "  interval: 5\n" in result.stdout and "  eval_crop: center\n" in result.stdout
    assert "optimizer.every=5 is optimizer.interval=5 now" in result.stderr


@pytest.mark.parametrize("flag", ["--cfg job", "--cfg=job", "-c job", "--config-n config --cf job"])
def test_settings_may_stand_on_both_sides_of_a_flag(flag: str) -> None:
    result = train_in_process("seed=3", *flag.split(), "embed_dim=64", "--resolve")
    assert result.returncode == 0
    assert "seed: 3\n" in result.stdout and "embed_dim: 64\n" in result.stdout


@pytest.mark.parametrize("flag", ["--info searchpath", "--inf searchpath", "-i=searchpath"])
def test_a_word_behind_info_may_be_its_topic_or_a_setting(flag: str) -> None:
    result = train_in_process(*flag.split(), "seed=3")
    assert result.returncode == 0 and "Config search path" in result.stdout
    assert "Installed Hydra Plugins" in train_in_process("--info", "seed=3").stdout


@pytest.mark.parametrize(
    ("content", "wrong", "meant"),
    [("sede: 3", "sede", "seed"), ("encoder:\n  imagee: 3", "encoder.imagee", "encoder.image")],
)
def test_a_misspelt_key_of_a_users_own_file_is_told(
    content: str, wrong: str, meant: str, tmp_path: Path
) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(f"# @package _global_\n{content}\n")
    result = train_in_process("--config-dir", str(tmp_path), "experiments=mine")
    assert result.returncode == 1
    assert f"Error: {wrong} is no setting, and no part reads it. Did you mean {meant}?" in result.stderr


def test_a_value_of_a_users_own_file_may_be_that_of_other_settings(tmp_path: Path) -> None:
    """Of a part, of a folder of Hydra's, or of nothing yet, with an underscore."""
    content = (
        "# @package _global_\nwidth: 64\ntag: a\n_arm: 3\nencoder:\n  text:\n    width: ${width}\n"
        f"hydra:\n  run:\n    dir: {tmp_path}/of_${{tag}}\nseed: x\n"
    )
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(content)
    result = train_in_process("--config-dir", str(tmp_path), "experiments=mine")
    assert result.stderr.strip().startswith("Error: seed='x'")


def test_flags_that_exclude_each_other_are_told() -> None:
    result = train_in_process("--cfg", "job", "seed=3", "-m")
    assert result.returncode == 1
    assert result.stderr.strip() == "Error: -m and --cfg do not go together: take one of them"


@pytest.mark.parametrize("wish", [None, "0", "1"])
def test_the_users_wish_for_tracebacks_outlives_a_training(
    wish: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "trainer.batch_size=one"])  # which Hydra refuses
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    if wish is not None:
        monkeypatch.setenv("HYDRA_FULL_ERROR", wish)

    with undone(), pytest.raises(SystemExit, match=r"trainer\.batch_size"):
        train()
    assert os.environ.get("HYDRA_FULL_ERROR") == wish
    assert ("Traceback" in capsys.readouterr().err) == (wish == "1")


def test_a_directory_in_which_another_run_trains_is_not_described_anew(tmp_path: Path) -> None:
    with RunDirectory(tmp_path).lock():
        done = train_in_process(f"hydra.run.dir={tmp_path}")
    assert done.returncode == 1 and "Another process trains in" in done.stderr
    assert "hydra.run.dir=..." in done.stderr and not (tmp_path / ".hydra").exists()


def test_two_that_start_in_the_same_second_have_two_directories(tmp_path: Path) -> None:
    for _ in range(2):
        assert train_in_process(*TINY, "trainer.batch_size=64", cwd=tmp_path).returncode == 1
    first, second = sorted(tmp_path.glob("outputs/miniclip/*"))
    assert all("_" in folder.name.partition("_")[2] for folder in (first, second))  # of a second


def test_the_users_home_is_where_a_tilde_says(tmp_path: Path) -> None:
    place = "hydra.run.dir=~/runs/one"
    done = train_in_process(*TINY, place, "trainer.batch_size=64", cwd=tmp_path, HOME=str(tmp_path))
    assert done.returncode == 1 and "trainer.batch_size=64" in done.stderr
    assert (tmp_path / "runs" / "one" / ".hydra").is_dir() and not (tmp_path / "~").exists()
