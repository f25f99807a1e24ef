"""Files of weights: read without executing them, and held against the architecture."""

from pathlib import Path

import pytest
import torch
from torch import nn

from miniclip.errors import SettingError
from miniclip.models.weights import existing_file, fitting_state, read_state


def backbone(num_classes: int = 2) -> nn.Module:
    return nn.ModuleDict({"body": nn.Linear(3, 4), "head": nn.Linear(4, num_classes)})


def test_a_file_that_is_none_names_what_it_might_have_been(tmp_path: Path) -> None:
    (tmp_path / "a.pt").touch()
    assert existing_file(str(tmp_path / "a.pt"), "DEFAULT") == tmp_path / "a.pt"
    with pytest.raises(SettingError, match="is no file and none of DEFAULT, V1"):
        existing_file(str(tmp_path / "b.pt"), "DEFAULT, V1")


def test_a_state_is_read_bare_or_from_a_checkpoint(tmp_path: Path) -> None:
    state = {"weight": torch.ones(2)}
    for content in (state, {"epoch": 3, "state_dict": state}):
        torch.save(content, tmp_path / "x.pt")
        assert read_state(tmp_path / "x.pt")["weight"].tolist() == [1.0, 1.0]


def test_files_without_a_state_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(SettingError, match="cannot be read as a state dict"):
        read_state(tmp_path / "text.pt")
    torch.save({"epoch": 3}, tmp_path / "number.pt")
    with pytest.raises(SettingError, match="holds no state dict"):
        read_state(tmp_path / "number.pt")


def test_the_classifier_alone_may_differ() -> None:
    model = backbone()
    state = backbone(num_classes=7).state_dict()
    fitted = fitting_state(state, "x.pt", model, "small", "head")
    model.load_state_dict(fitted)
    assert torch.equal(model.state_dict()["body.weight"], state["body.weight"])

    with pytest.raises(SettingError, match=r"not a state dict of small; it differs in body\.bias"):
        fitting_state({"body.weight": state["body.weight"]}, "x.pt", model, "small", "head")
    with pytest.raises(SettingError, match=r"differs in extra"):
        fitting_state({**state, "extra": torch.ones(1)}, "x.pt", model, "small", "head")
