"""SAM around a model in torch's DistributedDataParallel, of one process."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from miniclip.optim import SAM, Renormalized, ReusedAscent, SurrogateGap, WeightedGap
from tests.optim.test_sam import SGD, batches, regression, small_net

DESCENTS: dict[str, Any] = {
    "surrogate_gap": lambda: SurrogateGap(alpha=0.4),
    "reused_ascent": lambda: ReusedAscent(alpha=0.7),
    "renormalized": Renormalized,
    "weighted_gap": lambda: WeightedGap(gamma=0.8),
}


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def trained(parallel: dict[str, bool] | None, **settings: Any) -> Tensor:
    """Weights after four steps, of a model in DDP with these settings; None is without it."""
    model: nn.Module = small_net()
    if parallel is not None:
        model = DistributedDataParallel(model, **parallel)
    optimizer = SAM(model.parameters(), SGD, rho=0.1, model=model, **settings)
    for inputs in batches(4):
        optimizer.step(regression(model, inputs))
    return nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("descent", DESCENTS)
def test_gradients_in_buckets_are_two_gradients(descent: str) -> None:
    settings = {"interval": 2} if descent == "reused_ascent" else {}
    plain = trained(None, descent=DESCENTS[descent](), **settings)
    in_buckets = trained({"gradient_as_bucket_view": True}, descent=DESCENTS[descent](), **settings)
    torch.testing.assert_close(in_buckets, plain)


@pytest.mark.parametrize("parallel", [{}, {"static_graph": True}, {"find_unused_parameters": True}])
def test_a_part_is_perturbed_in_parallel_as_alone(parallel: dict[str, bool]) -> None:
    plain = trained(None, norms_only=True)
    torch.testing.assert_close(trained(parallel, norms_only=True), plain)
