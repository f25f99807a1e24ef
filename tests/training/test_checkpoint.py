"""The file of a checkpoint: whole or not there, and refused where it is damaged."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from miniclip.errors import UserError
from miniclip.training.checkpoint import copy_checkpoint, load_checkpoint, save_checkpoint, save_weights
from miniclip.training.digests import digest_of, digests_of
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


def test_a_checkpoint_that_is_moved_keeps_its_digests(tmp_path: Path) -> None:
    content = load_checkpoint(OF_A_RUN)
    save_checkpoint(tmp_path / "last.pt", content)
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "last.pt").rename(tmp_path / "elsewhere" / "epoch_0003.pt")
    assert digests_of(load_checkpoint(moved)) == digests_of(content)

    changed = torch.load(moved, weights_only=True)
    next(iter(changed["model"].values())).add_(1)
    torch.save(changed, moved)
    with pytest.raises(UserError, match=r"its 'model' is not what was written: the SHA-256 differs"):
        load_checkpoint(moved)


def test_a_digest_sees_names_kinds_and_shapes_and_not_the_place_in_memory() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    assert digest_of(weight) == digest_of(weight.T.contiguous().T)
    values = (
        weight,
        weight.T,
        weight.double(),
        weight.reshape(6),
        {"a": weight},
        {"b": weight},
        [weight],
        (weight,),
        [1, 2],
        [12],
        ["1", 2],
        [1.0, 2],
        [True, 2],
        [None, 2],
        "1",
        torch.zeros(0),
        torch.zeros(0, 2),
        torch.tensor(1, dtype=torch.bfloat16),
    )
    assert len({digest_of(value) for value in values}) == len(values)


def test_a_second_name_for_the_same_file_leaves_nothing_else(tmp_path: Path) -> None:
    for _ in range(2):
        copy_checkpoint(OF_A_RUN, tmp_path / "best.pt")
        copy_checkpoint(tmp_path / "best.pt", tmp_path / "second.pt")
    assert {path.name for path in tmp_path.iterdir()} == {"best.pt", "second.pt"}


def test_weights_alone_are_read_by_safetensors(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4))
    model.to(memory_format=torch.channels_last)
    model[2].bias = model[1].bias  # shared memory
    path = tmp_path / "best.safetensors"
    save_weights(path, model.state_dict(), {"step": 12, "val/rsum": 70.5})
    read = safetensors.torch.load_file(path)
    assert read.keys() == model.state_dict().keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in model.state_dict().items())
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata == {"step": "12", "val/rsum": "70.5", "sha256": digest_of(dict(sorted(read.items())))}


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, {"step": 2, "bad": lambda: None})
    assert torch.load(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]
