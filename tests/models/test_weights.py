"""Files of weights: read without executing them, and held against the architecture."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from miniclip.errors import SettingError
from miniclip.models.weights import (
    digests_of_weights,
    existing_file,
    fitting_state,
    read_state,
    with_names_of_timm,
)


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


def named_as_efficientnet_pytorch(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of timm's EfficientNet-Lite by the names of efficientnet-pytorch, layer by layer."""
    blocks = [block for stage in model.get_submodule("blocks").children() for block in stage.children()]
    named: list[tuple[str, nn.Module]] = [("_conv_stem", model.conv_stem), ("_bn0", model.bn1)]
    for number, block in enumerate(blocks):
        layers = [layer for layer in block.children() if list(layer.parameters())]
        names = ["_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
        if len(layers) == 6:
            names = ["_expand_conv", "_bn0", *names]
        named += [(f"_blocks.{number}.{name}", layer) for name, layer in zip(names, layers, strict=True)]
    named += [("_conv_head", model.conv_head), ("_bn1", model.bn2), ("_fc", model.classifier)]
    return {f"{name}.{key}": value for name, layer in named for key, value in layer.state_dict().items()}


@pytest.fixture(scope="module")
def efficientnet() -> nn.Module:
    timm = pytest.importorskip("timm", reason="needs the extra timm")
    torch.manual_seed(0)
    return timm.create_model("tf_efficientnet_lite0").eval()


def test_every_weight_of_efficientnet_lite_has_its_name_in_timm(efficientnet: nn.Module) -> None:
    expected = efficientnet.state_dict()
    named = with_names_of_timm(named_as_efficientnet_pytorch(efficientnet), efficientnet)
    assert named.keys() == expected.keys()
    assert all(torch.equal(named[key], expected[key]) for key in expected)


def test_efficientnet_lite_gives_the_logits_of_its_package(efficientnet: nn.Module) -> None:
    package = pytest.importorskip(
        "efficientnet_lite_pytorch",
        reason="compares with a package: pip install --no-deps efficientnet-lite-pytorch",
    )
    reference = package.EfficientNet.from_name("efficientnet-lite0").eval()
    efficientnet.load_state_dict(with_names_of_timm(reference.state_dict(), efficientnet))
    images = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(efficientnet(images), reference(images), rtol=0, atol=1e-5)


def test_other_states_keep_their_names(efficientnet: nn.Module) -> None:
    state = backbone().state_dict()
    assert with_names_of_timm(state, efficientnet) is state

    # of an architecture without blocks, or without a block of this number: told as one that does not fit
    strange = {"_conv_stem.weight": torch.ones(1), "_blocks.99._bn0.weight": torch.ones(1)}
    for model in (backbone(), efficientnet):
        with pytest.raises(SettingError, match="not a state dict of small"):
            fitting_state(with_names_of_timm(strange, model), "x.pt", model, "small", "head")


def test_weights_are_known_by_a_hash_while_they_are_there(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    config = {"encoder": {"image": {"weights": str(path)}, "text": {"weights": "package:not_there/w.pt"}}}
    assert digests_of_weights(config) == {}
    found = []
    for content in (b"one", b"two", b"one"):
        path.write_bytes(content)
        found.append(digests_of_weights(config)["encoder.image.weights"])
    assert found[0] == found[2] != found[1]
