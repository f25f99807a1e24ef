"""Image towers: classifiers without their classifier, weights, and what of them learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from miniclip.data.transforms import normalize
from miniclip.errors import SettingError, UserError
from miniclip.models.image_encoder import HALF, preprocessing_of
from miniclip.optim import parameter_groups, scale_learning_rates, set_learning_rate
from miniclip.preprocessing import MEAN, STD
from tests.models.towers import encoder, timm_encoder


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
        ("mobilenet_v3_small", "last_stage", {"features.11", "features.12", "classifier.0"}),
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


@pytest.mark.parametrize(("settings", "moves"), [({}, True), ({"freeze_batch_norm_stats": True}, False)])
def test_frozen_statistics_stay_and_normalize_in_training(settings: dict[str, bool], moves: bool) -> None:
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
    with pytest.raises(SettingError, match=r"is no model of timm; timm\.list_models\(\) names them"):
        timm_encoder(architecture="foo")
    with pytest.raises(SettingError, match="no linear layer"):
        encoder(architecture="squeezenet1_0")
    with pytest.raises(SettingError, match="does not suit vit_b_32"):
        encoder(architecture="vit_b_32", image_size=65)


@pytest.mark.parametrize("changes", [{"trainable": "some"}, {"lr_factor": 0.0}, {"embed_dim": 0}])
def test_refuses_settings_out_of_range(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingError) as caught:
        encoder(architecture="resnet18", **changes)
    assert caught.value.setting in changes


@pytest.mark.parametrize(("architecture", "image_size"), [("inception_v3", 32), ("maxvit_t", 33)])
def test_a_size_that_does_not_suit_is_one_line(architecture: str, image_size: int) -> None:
    with pytest.raises(SettingError, match=f"does not suit {architecture}") as caught:
        encoder(architecture=architecture, image_size=image_size)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "architecture", ["efficientnet_b0", "mobilenet_v3_small", "convnext_tiny", "swin_t"]
)
def test_a_frozen_backbone_is_without_dropout_and_stochastic_depth(architecture: str) -> None:
    images = torch.randn(2, 3, 32, 32)
    tower = encoder(architecture=architecture, trainable="none", image_size=32).train()
    first, second = (tower.backbone(images) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(first, tower.eval().backbone(images))


def test_only_the_stage_that_learns_is_in_training() -> None:
    tower = encoder(architecture="resnet18", trainable="last_stage").train()
    training = {name.split(".")[0] for name, module in tower.backbone.named_modules() if module.training}
    assert training == {"layer4"}
    assert not any(module.training for module in tower.eval().modules())


def keep_as_download(architecture: str, folder: Path, **settings: Any) -> Any:
    """Put random weights where torchvision keeps the published ones, keys as they are published."""
    weights = torchvision.models.get_model_weights(architecture)["IMAGENET1K_V1"]
    model = torchvision.models.get_model(architecture, weights=None, **settings)
    state = model.state_dict()
    if architecture.startswith("densenet"):
        state = {
            key.replace("norm1.", "norm.1.").replace("conv1.", "conv.1.") if "denselayer" in key else key: v
            for key, v in state.items()
        }
    (folder / "hub" / "checkpoints").mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "hub" / "checkpoints" / Path(weights.url).name)
    return model.eval()


@pytest.mark.parametrize(
    ("architecture", "settings", "image_size"),
    [
        ("densenet121", {}, 64),
        ("googlenet", {"aux_logits": True, "init_weights": False, "transform_input": True}, 64),
        ("inception_v3", {"aux_logits": True, "init_weights": False, "transform_input": True}, 96),
        ("vit_b_32", {}, 64),
    ],
)
def test_named_weights_give_the_features_that_torchvision_gives(
    architecture: str,
    settings: dict[str, Any],
    image_size: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    theirs = keep_as_download(architecture, tmp_path, **settings)
    classifier = "heads.head" if architecture == "vit_b_32" else "fc"
    if architecture == "densenet121":
        classifier = "classifier"
    parent, _, name = classifier.rpartition(".")
    setattr(theirs.get_submodule(parent), name, nn.Identity())
    tower = encoder(architecture=architecture, weights="IMAGENET1K_V1", image_size=image_size).eval()

    images = torch.randn(2, 3, image_size, image_size)
    seen = images if tower.pixel_factor is None else images * tower.pixel_factor + tower.pixel_shift
    features = tower.backbone(seen)
    if architecture != "vit_b_32":  # theirs is made for 224 pixels
        assert torch.allclose(features, theirs(images), rtol=1e-3, atol=1e-4)
    else:
        assert tower.backbone.encoder.pos_embedding.shape[1] == 1 + (64 // 32) ** 2
    wanted = preprocessing_of(tower)
    assert (wanted.interpolation, wanted.mean == HALF) == ("bilinear", classifier == "fc")


@pytest.mark.parametrize("content", [b"no weights", [1, 2], {"a": 1}])
def test_a_file_that_holds_no_state_dict_is_one_line(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(SettingError, match=r"weights\.pth: (cannot be read|holds no state dict)"):
        encoder(architecture="resnet18", weights=str(path))


def test_pixels_are_normalized_as_the_weights_of_timm_saw_them(tmp_path: Path) -> None:
    """vit_tiny_patch16_224 was trained with mean and deviation of one half."""
    import timm

    path = tmp_path / "vit.pth"
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32).eval()
    torch.save(theirs.state_dict(), path)
    settings = {"architecture": "vit_tiny_patch16_224", "image_size": 32}
    tower = timm_encoder(weights=str(path), **settings).eval()
    assert preprocessing_of(tower).mean == HALF

    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = tower.proj(theirs((pixels / 255 - 0.5) / 0.5))
    assert torch.allclose(tower(normalize(pixels)), expected, atol=1e-4)
    assert not any("pixel" in key for key in tower.state_dict())
    # from scratch nothing asks for other pixels than ours; a checkpoint says what its tower saw
    scratch = timm_encoder(weights=None, **settings)
    assert scratch.pixel_factor is None and preprocessing_of(scratch)[:2] == (MEAN, STD)
    scratch.load_state_dict(tower.state_dict())
    scratch.normalize_to(HALF, HALF)
    assert torch.allclose(scratch.eval()(normalize(pixels)), expected, atol=1e-4)
