"""The file of a checkpoint: whole or not there, and refused where it is damaged."""

from pathlib import Path

import pytest
import torch

from miniclip.errors import UserError
from miniclip.training.checkpoint import copy_checkpoint, load_checkpoint, save_checkpoint
from tests.conftest import ROOT

OF_A_RUN = ROOT / "tests" / "golden" / "run" / "checkpoints" / "last.pt"


def test_a_whole_checkpoint_is_read(tmp_path: Path) -> None:
    copy_checkpoint(OF_A_RUN, tmp_path / "copy.pt")
    assert load_checkpoint(tmp_path / "copy.pt")["progress"]["step"] > 0


@pytest.mark.parametrize("content", [b"", b"no checkpoint", "half"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "broken.pt"
    data = OF_A_RUN.read_bytes()
    path.write_bytes(data[: len(data) // 2] if isinstance(content, str) else content)
    with pytest.raises(UserError, match=r"broken\.pt"):
        load_checkpoint(path)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, {"step": 2, "bad": lambda: None})
    assert torch.load(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]
