"""Blocks of models of all architectures."""

from typing import Any

import pytest
import torch
from torch import nn

from miniclip.config import instantiate
from miniclip.config.compose import compose
from miniclip.models import CLIP
from miniclip.models.blocks import blocks_of
from tests.conftest import TINY
from tests.models.test_last_stage import FAMILIES, FAMILIES_OF_TIMM
from tests.models.towers import encoder, timm_encoder

# without the settings of one kind of text tower
SMALL = [setting for setting in TINY if not setting.startswith("encoder.text")]


def model_of(*overrides: str) -> CLIP:
    """A model without memory for its weights."""
    with torch.device("meta"):
        return instantiate.make_model(compose(*SMALL, *overrides), vocab_size=300)


def with_image_tower(tower: nn.Module) -> CLIP:
    """A model with another image tower."""
    model = model_of()
    model.image_encoder = tower
    return model


def image_blocks(model: CLIP) -> list[str]:
    """The blocks of the image tower, in order."""
    return [name.removeprefix("image ") for name in blocks_of(model) if name.startswith("image ")]


def check_partition(model: CLIP) -> None:
    """Each parameter but the temperature's and the loss's lies in one block."""
    found = [parameter for block in blocks_of(model).values() for parameter in block]
    apart = {*model.temperature.parameters(), *model.loss.parameters()}
    assert len(found) == len(set(found))
    assert set(found) == set(model.parameters()) - apart


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("resnet18", [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]),
        ("vit_b_32", [f"encoder.layers.encoder_layer_{layer}" for layer in range(12)]),
    ],
)
def test_a_row_for_each_block_between_stem_and_projection(architecture: str, expected: list[str]) -> None:
    with torch.device("meta"):
        tower = encoder(architecture=architecture)
    names = image_blocks(with_image_tower(tower))
    head = ["head"] if architecture.startswith("vit") else []  # its last norm
    assert names == ["stem", *expected, *head, "projection"]


def test_plain_layers_in_a_row_are_blocks_with_their_norms() -> None:
    with torch.device("meta"):
        tower = encoder(architecture="vgg11_bn")
    model = with_image_tower(tower)
    names = image_blocks(model)
    assert names[:3] == ["features.0", "features.4", "features.8"] and names[-1] == "projection"
    backbone: Any = tower.backbone
    norm = backbone.features[1]
    assert isinstance(norm, nn.BatchNorm2d) and norm.weight in set(blocks_of(model)["image features.0"])


@pytest.mark.parametrize(("architecture", "image_size"), FAMILIES.items())
def test_each_family_has_several_blocks_and_none_twice(architecture: str, image_size: int) -> None:
    with torch.device("meta"):
        model = with_image_tower(encoder(architecture=architecture, image_size=image_size))
    assert 7 < len(image_blocks(model)) < 70
    check_partition(model)


@pytest.mark.parametrize(("architecture", "image_size"), FAMILIES_OF_TIMM.items())
def test_each_family_of_timm_has_several_blocks(architecture: str, image_size: int) -> None:
    with torch.device("meta"):
        model = with_image_tower(timm_encoder(architecture=architecture, image_size=image_size))
    assert 4 < len(image_blocks(model)) < 70
    check_partition(model)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["encoder/text=transformer", "encoder.text.num_layers=2"],
            ["text embeddings", "text blocks.0", "text blocks.1", "text head", "text projection"],
        ),
        (
            ["encoder/text=linformer", "encoder.text.num_layers=1"],
            ["text embeddings", "text blocks.0", "text head", "text projection"],
        ),
        (["encoder/text=bag"], ["text embeddings", "text projection"]),
    ],
)
def test_text_towers(overrides: list[str], expected: list[str]) -> None:
    model = model_of(*overrides)
    assert [name for name in blocks_of(model) if name.startswith("text")] == expected
    check_partition(model)


def test_a_text_tower_of_hugging_face() -> None:
    from miniclip.models import HFTextModel

    config = {
        "model_type": "bert",
        "vocab_size": 30,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    settings: dict[str, Any] = {"frozen": False, "pooling": "mean", "embed_dim": 8}
    with torch.device("meta"):
        tower = HFTextModel(vocab_size=30, name="bert", config=config, **settings)
    model = model_of()
    model.text_encoder = tower
    layers = [f"text encoder.layer.{layer}" for layer in range(2)]
    found = [name for name in blocks_of(model) if name.startswith("text")]
    assert found == ["text embeddings", *layers, "text projection"]


@pytest.mark.parametrize(("projection", "is_row"), [("mlp", True), ("separate", True), ("none", False)])
def test_what_follows_both_towers_is_one_row_if_it_learns(projection: str, is_row: bool) -> None:
    model = model_of(f"projection={projection}")
    assert ("projection" in blocks_of(model)) == is_row
    check_partition(model)
