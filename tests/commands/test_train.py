"""Starting a training: who starts it, and the names that were typed."""

import os
import sys

import pytest

from miniclip.commands.train import train
from tests.in_process import train_in_process, undone


@pytest.mark.parametrize(("rank", "said"), [("0", "torchrun started 2 processes"), ("1", "1")])
def test_several_processes_of_torchrun_are_refused_by_the_first(
    rank: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as caught:
        train()
    assert said in str(caught.value.code) and "\n" not in str(caught.value.code)


def test_an_old_name_is_told_on_the_command_line() -> None:
    result = train_in_process("--cfg", "job", "optimizer.every=5", "data.eval_crop=centre")
    assert "  interval: 5\n" in result.stdout and "  eval_crop: center\n" in result.stdout
    assert "optimizer.every=5 is optimizer.interval=5 now" in result.stderr


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
