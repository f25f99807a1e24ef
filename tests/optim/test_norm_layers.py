"""Every kind of norm layer is recognized, and no layer with weights."""

import pytest
from torch import nn

from miniclip.optim.norm_layers import BATCH_NORM, NORM_LAYERS


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.SyncBatchNorm(2), nn.LazyBatchNorm2d(), nn.InstanceNorm2d(2)],
    ids=lambda layer: type(layer).__name__,
)
def test_batch_and_instance_norms(layer: nn.Module) -> None:
    assert isinstance(layer, BATCH_NORM) and isinstance(layer, NORM_LAYERS)


def test_norms_without_statistics_of_batches_and_layers_that_are_none() -> None:
    for layer in (nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.RMSNorm(2)):
        assert isinstance(layer, NORM_LAYERS) and not isinstance(layer, BATCH_NORM)
    for other in (nn.Linear(2, 2), nn.Conv2d(2, 2, 1), nn.Embedding(2, 2)):
        assert not isinstance(other, NORM_LAYERS)
