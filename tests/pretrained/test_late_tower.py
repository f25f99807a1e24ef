"""The image tower of a loaded model, which is made when it is first needed."""

import copy
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from miniclip import MiniCLIP
from miniclip.config.restore import restore
from miniclip.errors import UserError
from miniclip.pretrained.loading import ONLY_FOR_TRAINING, read_checkpoint
from miniclip.runs import RunDirectory
from miniclip.training.checkpoint import load_checkpoint, save_checkpoint

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def checkpoint(class_run: RunDirectory) -> dict[str, Any]:
    return load_checkpoint(class_run.best_checkpoint)


def images_for(model: MiniCLIP) -> Tensor:
    side = model.preprocess.image_size
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_the_tower_is_that_of_the_run(class_run: RunDirectory) -> None:
    model = MiniCLIP.from_pretrained(class_run.path)
    fingerprint = model.fingerprint
    assert model.bundle.late_tower is not None

    whole = restore(class_run.path)
    assert MiniCLIP(whole.named("whole")).fingerprint == fingerprint
    assert model.model.state_dict().keys() == whole.model.state_dict().keys()
    assert model.bundle.late_tower is None and model.bundle.fingerprint() == fingerprint

    ours, theirs = model.encode_image(images_for(model)), MiniCLIP(whole.named("whole"))
    assert torch.equal(ours, theirs.encode_image(images_for(model)))
    assert not any(module.training for module in model.model.modules())


def test_half_precision_in_a_file_is_the_same_model_with_and_without_the_tower(
    checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    halves = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint["model"].items()
    }
    save_checkpoint(tmp_path / "half.pt", {**checkpoint, "model": halves})
    model = MiniCLIP.from_pretrained(tmp_path / "half.pt")
    late = model.bundle.fingerprint()
    model.make_image_tower()
    assert model.bundle.fingerprint() == late


def test_whoever_asks_first_changes_nothing_else(class_run: RunDirectory) -> None:
    model = copy.deepcopy(MiniCLIP.from_pretrained(class_run.path))
    model.encode_text("a red square")
    before = torch.get_rng_state()
    with torch.inference_mode():
        model.encode_image(images_for(model))
    assert torch.equal(torch.get_rng_state(), before)

    # which parameters made in inference mode refuse
    model.model.encode_image(images_for(model)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.model.image_encoder.parameters())


def test_two_threads_get_one_tower(class_run: RunDirectory) -> None:
    model = MiniCLIP.from_pretrained(class_run.path)
    together = threading.Barrier(2)
    towers = []

    def ask() -> None:
        together.wait()
        towers.append(model.model.image_encoder)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert towers[0] is towers[1]


def test_a_tower_of_another_architecture_is_told_when_it_is_made(
    checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "other.pt"
    weights: Weights = dict(checkpoint["model"])
    del weights["image_encoder.proj.bias"]
    save_checkpoint(path, {**checkpoint, "model": weights})

    model = MiniCLIP.from_pretrained(path)
    assert model.encode_text("a red square").isfinite().all()
    for ask in (model.make_image_tower, lambda: model.encode_image(images_for(model)), lambda: model.model):
        with pytest.raises(UserError, match=r"other\.pt cannot be restored: .* architecture.*proj\.bias"):
            ask()


def test_what_only_training_reads_stays_in_the_file(class_run: RunDirectory, tmp_path: Path) -> None:
    path = Path(shutil.copy(class_run.best_checkpoint, tmp_path / "best.pt"))
    mapped = load_checkpoint(path, unread=ONLY_FOR_TRAINING)
    content = read_checkpoint(path).content
    assert content.keys().isdisjoint({"optimizer", "scaler", "random_state"})

    # a file that is changed in its place: only what still lies in it changes
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    states = mapped["optimizer"]["state"].values()
    moments = [value for state in states for value in state.values() if isinstance(value, Tensor)]
    assert moments and not any(moment.any() for moment in moments)

    sound = load_checkpoint(class_run.best_checkpoint)["model"]
    assert all(torch.equal(content["model"][name], tensor) for name, tensor in sound.items())
