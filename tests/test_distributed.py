"""One process passes everything through: the same tensors, not copies."""

import pytest
import torch

from miniclip.distributed import World


def test_one_process_is_the_main_one_and_passes_everything_through() -> None:
    world = World()
    assert (world.rank, world.size, world.is_main) == (0, 1, True)
    features, claim = torch.randn(3, 2), torch.tensor(True)
    assert world.gather(features) is features
    assert world.all(claim) is claim
    assert [world.any(value) for value in (True, False)] == [True, False]
    world.barrier()


def test_several_processes_are_not_pretended() -> None:
    with pytest.raises(AssertionError, match="several processes cannot train together yet"):
        World(rank=0, size=2)
