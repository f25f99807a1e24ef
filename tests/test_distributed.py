"""One process passes everything through: the same tensors, not copies. Several share rows equally."""

import pytest
import torch

from miniclip.distributed import World


def test_one_process_passes_everything_through() -> None:
    world = World()
    assert (world.rank, world.size) == (0, 1)
    features, claim, rows = torch.randn(3, 2), torch.tensor(True), [5, 6, 7]
    assert world.gather(features) is features
    assert world.all(claim) is claim
    assert world.share(rows) is rows
    assert world.sums([2, 3]) == [2, 3]
    assert [world.any(value) for value in (True, False)] == [True, False]
    assert (
        world.mean(features) is features and world.from_main(rows) is rows and world.of_all(rows) == [rows]
    )
    with world.main_first():
        world.average_([features])
    assert world.is_main and world.is_alone


def test_several_processes_have_equal_parts_in_the_order_of_their_ranks() -> None:
    rows = [5, 6, 7, 8, 9, 10]
    assert [World(rank, size=2).share(rows) for rank in range(2)] == [[5, 6, 7], [8, 9, 10]]
    assert [World(rank, size=3).share(rows) for rank in range(3)] == [[5, 6], [7, 8], [9, 10]]
    with pytest.raises(AssertionError, match="6 rows have no equal parts for 4 processes"):
        World(rank=0, size=4).share(rows)


def test_there_is_no_process_beyond_the_last() -> None:
    for rank, size in ((1, 1), (2, 2), (-1, 2), (0, 0)):
        with pytest.raises(AssertionError):
            World(rank, size)
