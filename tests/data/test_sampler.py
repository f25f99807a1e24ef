"""The order of training: every epoch another, from any image on, none of them twice."""

from itertools import islice

import pytest

from miniclip.data.sampler import EpochBatches, sequential_batches
from miniclip.distributed import World
from miniclip.errors import SettingError


def test_epochs_differ_and_hold_an_image_at_most_once() -> None:
    first, second, third, fourth = islice(EpochBatches(10, batch_size=4, seed=0), 4)
    assert {epoch for epoch, _ in first + second} == {0}
    assert {epoch for epoch, _ in third + fourth} == {1}
    assert [index for _, index in first] != [index for _, index in third]
    assert len(set(first + second)) == len(set(third + fourth)) == 8


def test_training_can_start_at_any_image() -> None:
    batches = EpochBatches(20, batch_size=4, seed=0)
    assert batches.steps_left() == 5
    whole = list(islice(batches, 12))
    batches.start_at(0, 12)
    assert list(islice(batches, 9)) == whole[3:]
    batches.start_at(1, 8)
    assert list(islice(batches, 5)) == whole[7:]


@pytest.mark.parametrize(("batch_size", "accumulate_steps"), [(2, 1), (6, 1), (3, 2), (16, 1)])
def test_batches_of_another_size_see_no_image_twice(batch_size: int, accumulate_steps: int) -> None:
    before = list(islice(EpochBatches(20, batch_size=4, seed=0), 2))
    after = EpochBatches(20, batch_size=batch_size, seed=0, accumulate_steps=accumulate_steps)
    after.start_at(0, 8)
    seen = [key for batch in before for key in batch]
    for batch in islice(after, after.steps_left(8) * accumulate_steps):
        assert len(batch) == batch_size
        seen += batch
    assert {epoch for epoch, _ in seen} <= {0} and len(set(seen)) == len(seen)
    assert {epoch for epoch, _ in next(iter(after))} == ({1} if batch_size == 16 else {0})


@pytest.mark.parametrize("size", [1, 2, 3])
def test_processes_share_each_batch_equally(size: int) -> None:
    whole = list(islice(EpochBatches(20, batch_size=6, seed=0), 7))
    ranks = [EpochBatches(20, batch_size=6, seed=0, world=World(rank, size)) for rank in range(size)]
    assert {batches.steps_left() for batches in ranks} == {3}

    for batch, *shares in zip(whole, *ranks, strict=False):
        assert [len(share) for share in shares] == [6 // size] * size
        assert [key for share in shares for key in share] == batch


@pytest.mark.parametrize("size", [1, 2, 3])
def test_another_number_of_processes_goes_on_where_one_stopped(size: int) -> None:
    whole = list(islice(EpochBatches(20, batch_size=6, seed=0), 5))
    for rank in range(size):
        batches = EpochBatches(20, batch_size=6, seed=0, world=World(rank, size))
        batches.start_at(0, 12)
        expected = [World(rank, size).share(batch) for batch in whole[2:]]
        assert list(islice(batches, 3)) == expected


def test_a_batch_that_processes_cannot_share_equally_is_told() -> None:
    with pytest.raises(SettingError, match=r"trainer\.batch_size=7: must be a multiple of 2"):
        EpochBatches(20, batch_size=7, seed=0, world=World(rank=1, size=2))


def test_batches_in_order_hold_every_image_once() -> None:
    assert sequential_batches(5, 2) == [[0, 1], [2, 3], [4]]
    assert sequential_batches(0, 2) == []
