"""Folded image towers against themselves, and those that are left as they are."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from miniclip.models import TimmEncoder, TorchvisionEncoder
from miniclip.models.folded_batch_norm import with_folded_batch_norms
from miniclip.models.image_encoder import ImageEncoder

SIZE = 32
SETTINGS: dict[str, Any] = {
    "embed_dim": 8,
    "trainable": "none",
    "freeze_batch_norm_stats": False,
    "lr_factor": 1.0,
}


def batch_norms(tower: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in tower.modules())


def as_if_trained(tower: nn.Module) -> nn.Module:
    """The tower with statistics and weights of batch norms of which none can be left out."""
    torch.manual_seed(0)
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return tower.to(memory_format=torch.channels_last).eval()


def timm_tower(architecture: str) -> Any:
    return as_if_trained(TimmEncoder(architecture=architecture, weights=None, image_size=SIZE, **SETTINGS))


def torchvision_tower(architecture: str) -> Any:
    tower = TorchvisionEncoder(architecture=architecture, weights=None, image_size=SIZE, **SETTINGS)
    return as_if_trained(tower)


def tower_of(backbone: nn.Module) -> Any:
    return as_if_trained(ImageEncoder(backbone, width=8, **SETTINGS))


def assert_same_features(ours: Any, theirs: Any) -> None:
    images = torch.randn(3, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = theirs.features(images)
        largest = expected.abs().max().item()
        torch.testing.assert_close(ours.features(images), expected, rtol=0, atol=1e-5 * max(largest, 1))


@pytest.mark.parametrize(
    "tower",
    [
        # padded by its input's size, activations inside of the norms, convolutions of single channels
        lambda: timm_tower("tf_efficientnet_lite0"),
        lambda: timm_tower("test_resnet"),
        # holds convolutions of the kind `SmallMapConv2d`
        lambda: torchvision_tower("resnet18"),
    ],
    ids=["efficientnet", "timm resnet", "torchvision resnet"],
)
def test_it_gives_the_same_features_without_batch_norms(tower: Any) -> None:
    tower = tower()
    tower.normalize_to((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    folded = with_folded_batch_norms(tower, SIZE)
    assert batch_norms(tower) > 10 and batch_norms(folded) == 0
    assert_same_features(folded, tower)


def test_norms_without_a_convolution_before_them_stay() -> None:
    tower = torchvision_tower("shufflenet_v2_x0_5")
    tower.backbone.conv1.insert(0, nn.BatchNorm2d(3).eval())
    folded = with_folded_batch_norms(tower, SIZE)
    assert batch_norms(folded) == 1
    assert_same_features(folded, tower)


def test_the_tower_itself_and_the_seeds_are_untouched() -> None:
    tower = timm_tower("test_resnet")
    state = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    seeds = torch.get_rng_state()
    assert with_folded_batch_norms(tower, SIZE) is not tower

    assert list(tower.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in tower.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tower.modules())
    assert torch.equal(torch.get_rng_state(), seeds)


class Untraceable(nn.Module):
    """Chooses its way by what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.conv(images))
        if maps.mean() > 100:
            maps = maps.flip(3)
        return maps.amax(dim=(2, 3))


def test_a_tower_that_cannot_be_traced_is_folded_all_the_same() -> None:
    tower = tower_of(Untraceable())
    with pytest.raises(fx.proxy.TraceError):
        fx.symbolic_trace(tower.backbone)
    folded = with_folded_batch_norms(tower, SIZE)
    assert batch_norms(folded) == 0
    assert_same_features(folded, tower)


class NormalizedWeights(nn.Conv2d):
    """A convolution that would undo what is folded into its weights."""

    def forward(self, images: Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(self.weight, dim=(1, 2, 3), keepdim=True)  # (D, 1, 1, 1)
        return self._conv_forward(images, self.weight / norms, self.bias)


def normalized_weights() -> nn.Module:
    conv, norm = NormalizedWeights(3, 8, 3), nn.BatchNorm2d(8)
    return nn.Sequential(conv, norm, nn.AdaptiveMaxPool2d(1), nn.Flatten())


class Shared(nn.Module):
    """One convolution whose maps two batch norms read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        return sum(norm(maps) for norm in self.norms).amax(dim=(2, 3))


@pytest.mark.parametrize("backbone", [normalized_weights, Shared])
def test_a_tower_whose_features_would_change_is_left_as_it_is(backbone: Any) -> None:
    tower = tower_of(backbone())
    assert with_folded_batch_norms(tower, SIZE) is tower


def test_a_tower_without_batch_norms_is_left_as_it_is() -> None:
    tower = timm_tower("test_vit")
    assert batch_norms(tower) == 0
    assert with_folded_batch_norms(tower, SIZE) is tower


def test_features_that_are_no_numbers_fold_nothing() -> None:
    tower = timm_tower("test_resnet")
    with torch.no_grad():
        next(tower.backbone.parameters()).fill_(math.nan)
    assert with_folded_batch_norms(tower, SIZE) is tower
