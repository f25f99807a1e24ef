"""Image towers: classifiers without their classifier, weights, and what of them learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from miniclip.errors import SettingError, UserError
from miniclip.models import TimmEncoder, TorchvisionEncoder
from miniclip.optim import parameter_groups, scale_learning_rates, set_learning_rate

SETTINGS: dict[str, Any] = {
    "image_size": 64,
    "embed_dim": 8,
    "weights": None,
    "trainable": "all",
    "frozen_statistics": False,
    "lr_factor": 1.0,
}


def encoder(**changes: Any) -> TorchvisionEncoder:
    return TorchvisionEncoder(**SETTINGS | changes)


def timm_encoder(**changes: Any) -> TimmEncoder:
    pytest.importorskip("timm", reason="needs the extra timm")
    return TimmEncoder(**SETTINGS | changes)


def learning(tower: nn.Module) -> set[str]:
    """The parts of the backbone with parameters that learn."""
    names = (name for name, p in tower.named_parameters() if p.requires_grad)
    return {".".join(name.split(".")[1:3]) for name in names if name.startswith("backbone.")}


@pytest.mark.parametrize(
    "architecture", ["resnet18", "resnet50", "mobilenet_v3_small", "vit_b_32", "regnet_y_400mf", "swin_t"]
)
def test_any_classifier_of_torchvision(architecture: str) -> None:
    tower = encoder(architecture=architecture, weights=None)
    assert tower(torch.randn(2, 3, 64, 64)).shape == (2, 8)


def test_residual_blocks_start_at_zero_without_weights() -> None:
    tower = encoder(architecture="resnet18", weights=None)
    assert tower.backbone.layer1[0].bn2.weight.abs().sum() == 0


def test_weights_from_a_file_with_and_without_classifier(tmp_path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    path = tmp_path / "weights.pth"
    for dropped in ((), ("fc.weight", "fc.bias")):
        torch.save({k: v for k, v in state.items() if k not in dropped}, path)
        tower = encoder(architecture="resnet18", weights=str(path))
        assert torch.equal(tower.backbone.conv1.weight, state["conv1.weight"])


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    with pytest.raises(SettingError, match="not a state dict of resnet34"):
        encoder(architecture="resnet34", weights=str(path))


def test_unknown_weights_name_those_there_are() -> None:
    with pytest.raises(SettingError, match="IMAGENET1K_V1"):
        encoder(architecture="resnet34", weights="IMAGENET")


def test_a_failed_download_says_where_the_file_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody answers there
    with pytest.raises(UserError) as caught:
        encoder(architecture="resnet18", weights="IMAGENET1K_V1")
    assert str(tmp_path / "hub" / "checkpoints") in str(caught.value)
    assert "encoder.image.weights=PATH" in str(caught.value)


@pytest.mark.parametrize(
    ("architecture", "trainable", "expected"),
    [
        ("resnet18", "last_stage", {"layer4.0", "layer4.1"}),
        ("resnet18", "none", set()),
        ("mobilenet_v3_small", "last_stage", {"features.12", "classifier.0"}),
        ("vit_b_32", "last_stage", {"encoder.layers", "encoder.ln"}),
    ],
)
def test_what_of_the_backbone_learns(architecture: str, trainable: str, expected: set[str]) -> None:
    tower = encoder(architecture=architecture, trainable=trainable)
    assert learning(tower) == expected
    assert all(p.requires_grad for p in tower.proj.parameters())
    if architecture == "vit_b_32":
        layers = {n.split(".")[3] for n, p in tower.named_parameters() if p.requires_grad and "layers" in n}
        assert layers == {"encoder_layer_11"}


@pytest.mark.parametrize(("settings", "moves"), [({}, True), ({"frozen_statistics": True}, False)])
def test_frozen_statistics_stay_and_normalise_in_training(settings: dict[str, bool], moves: bool) -> None:
    tower = encoder(architecture="resnet18", **settings).train()
    before = [b.clone() for b in tower.buffers()]
    images = torch.randn(4, 3, 64, 64)
    trained = tower(images)
    after = list(tower.buffers())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) == moves
    assert torch.allclose(tower.eval()(images), trained, atol=1e-5) == (not moves)


def test_the_backbone_learns_at_its_own_rate() -> None:
    tower = encoder(architecture="resnet18", lr_factor=0.1)
    optimizer = torch.optim.SGD(parameter_groups(tower), lr=0.5)
    scale_learning_rates(optimizer)
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {rates[p] for p in tower.backbone.parameters()} == {0.1 * 0.5}
    assert {rates[p] for p in tower.proj.parameters()} == {0.5}
    assert optimizer.param_groups[0]["lr"] == 0.5  # the rate that is logged
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.25, 0.25, 0.025, 0.025])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(tower.parameters()))


@pytest.mark.parametrize(
    ("architecture", "last"),
    [("resnet18", "layer4"), ("convnext_atto", "stages.3"), ("vit_tiny_patch16_224", "blocks")],
)
def test_a_model_of_timm(architecture: str, last: str, tmp_path: Path) -> None:
    tower = timm_encoder(architecture=architecture, trainable="last_stage").eval()
    assert tower(torch.randn(2, 3, 64, 64)).shape == (2, 8)
    assert any(name.startswith(last) for name in learning(tower))
    assert not learning(tower) & {"conv1.weight", "stem.0", "patch_embed.proj"}
    path = tmp_path / "weights.pth"
    classifier = tower.backbone.default_cfg["classifier"]
    torch.save({**tower.backbone.state_dict(), f"{classifier}.weight": torch.ones(10, 3)}, path)
    again = timm_encoder(architecture=architecture, weights=str(path))
    first, second = (next(each.backbone.parameters()) for each in (tower, again))
    assert torch.equal(first, second)


def test_an_unknown_model_names_near_ones() -> None:
    with pytest.raises(SettingError, match="resnet34"):
        encoder(architecture="resnet35")
    with pytest.raises(SettingError, match=r"near are: .*convnext"):
        timm_encoder(architecture="convnext_smal")
    with pytest.raises(SettingError, match="no linear layer"):
        encoder(architecture="squeezenet1_0")
    with pytest.raises(SettingError, match="does not suit vit_b_32"):
        encoder(architecture="vit_b_32", image_size=65)


@pytest.mark.parametrize("changes", [{"trainable": "some"}, {"lr_factor": 0.0}, {"embed_dim": 0}])
def test_refuses_settings_out_of_range(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingError) as caught:
        encoder(architecture="resnet18", **changes)
    assert caught.value.setting in changes
