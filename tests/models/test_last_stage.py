"""The last stage of networks of all families, and a network that does not tell it."""

from typing import Any

import pytest
import torch
from torch import nn

from miniclip.errors import SettingError
from miniclip.models.image_encoder import ImageEncoder
from miniclip.models.last_stage import last_stage
from tests.models.towers import encoder, timm_encoder

FAMILIES = {
    "alexnet": 64,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "googlenet": 64,
    "inception_v3": 96,
    "maxvit_t": 224,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "regnet_y_400mf": 64,
    "resnet18": 64,
    "resnext50_32x4d": 64,
    "shufflenet_v2_x0_5": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "vgg11": 64,
    "vgg11_bn": 64,
    "vit_b_32": 64,
}
"""A small member of each of torchvision's families, and a side it accepts."""

FAMILIES_OF_TIMM = {
    "densenet121": 64,
    "efficientnet_lite0": 64,
    "mobilenetv3_small_050": 64,
    "mobilenetv4_conv_small_050": 64,
    "regnety_002": 64,
    "resnetv2_50": 64,
    "test_vit": 64,
}


def share_that_learns(tower: nn.Module) -> float:
    sizes = [(p.numel(), p.requires_grad) for p in tower.backbone.parameters()]
    return sum(size for size, learns in sizes if learns) / sum(size for size, _ in sizes)


@pytest.mark.parametrize(("architecture", "image_size"), FAMILIES.items())
def test_the_last_stage_of_each_family_is_a_part_of_it_with_weight(
    architecture: str, image_size: int
) -> None:
    with torch.device("meta"):
        tower = encoder(architecture=architecture, trainable="last_stage", image_size=image_size)
    assert 0.08 < share_that_learns(tower) < 0.97
    first = next(tower.backbone.parameters())
    assert not first.requires_grad
    assert tower.proj.in_features > 0


@pytest.mark.parametrize(("architecture", "image_size"), FAMILIES_OF_TIMM.items())
def test_of_timm_as_well_and_its_head_may_be_wider_than_its_features(
    architecture: str, image_size: int
) -> None:
    with torch.device("meta"):
        tower = timm_encoder(architecture=architecture, trainable="last_stage", image_size=image_size)
        assert tower(torch.zeros(2, 3, image_size, image_size)).shape == (2, 8)
    assert 0.08 < share_that_learns(tower) < 0.97


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("rexnet_100", {*(f"features.{number}" for number in range(11, 17))}),
        (
            "hrnet_w18_small",
            {"transition3", "stage4", "incre_modules", "downsamp_modules", "final_layer"},
        ),
        ("coat_tiny", {"parallel_blocks", "norm2", "norm3", "norm4", "aggregate"}),
        ("resnet18", {"layer4"}),
        ("vit_tiny_patch16_224", {"blocks.11", "norm"}),
        ("convnext_atto", {"stages.3", "head"}),
        ("efficientnet_b0", {"blocks.5", "blocks.6", "conv_head", "bn2"}),  # both of 32 pixels a cell
        ("densenet121", {"features.transition3", "features.denseblock4", "features.norm5"}),
        ("mvitv2_tiny", {"stages.3", "norm"}),  # whose feature maps name parts that it has not
    ],
)
def test_the_last_stage_is_what_follows_the_last_feature_map_but_one(
    architecture: str, expected: set[str]
) -> None:
    timm = pytest.importorskip("timm", reason="needs the extra timm")
    with torch.device("meta"):
        model = timm.create_model(architecture, pretrained=False, num_classes=0)
    names = {id(part): name for name, part in model.named_modules()}
    assert {names[id(part)] for part in last_stage(model)} == expected


def test_a_last_stage_that_is_not_known_says_what_to_choose() -> None:
    model = nn.ModuleDict({"stem": nn.Linear(2, 2), "tail": nn.Linear(2, 2)})
    model.feature_info = [{"module": "block.0"}, {"module": "block.1"}]  # as twins of timm do
    settings: dict[str, Any] = {
        "width": 2,
        "embed_dim": 2,
        "freeze_batch_norm_stats": False,
        "lr_factor": 1.0,
    }
    with pytest.raises(SettingError, match=r"trainable=last_stage: .*choose all or none"):
        ImageEncoder(model, trainable="last_stage", **settings)


def test_without_names_or_feature_maps_it_begins_with_the_last_block_or_layer() -> None:
    block = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))  # modules of modules
    norm, layer, other = nn.LayerNorm(2), nn.Linear(2, 2), nn.Linear(2, 2)
    assert last_stage(nn.Sequential(other, block, layer, norm)) == [block, layer, norm]
    assert last_stage(nn.Sequential(other, layer, nn.ReLU(), norm)) == [layer, norm]


def test_a_stage_is_found_inside_of_the_part_that_keeps_them() -> None:
    layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    norm = nn.LayerNorm(2)
    backbone = nn.ModuleDict({"stem": nn.Linear(2, 2), "layers": layers, "norm": norm})
    assert last_stage(backbone) == [layers[1], norm]
