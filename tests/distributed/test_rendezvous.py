"""Processes that find each other in a store that still holds what earlier ones wrote."""

from threading import Thread

import pytest
from torch.distributed import HashStore, Store

from miniclip.commands.rendezvous import store_of_start

SIZE = 3


def test_each_start_has_a_part_of_the_store_for_itself() -> None:
    store = HashStore()
    for count in range(3):
        parts = started(store, order=(0, 1, 2))
        assert not any(part.check(["address"]) for part in parts)
        parts[count].set("address", str(count))
        assert [part.get("address") for part in parts] == [str(count).encode()] * SIZE


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_one_that_has_ended_is_not_waited_for(order: tuple[int, ...]) -> None:
    """Process 1 wrote its key, and ended before the first one came."""
    store = HashStore()
    store.set("key/1", "of one that has ended")
    assert len(started(store, order=order)) == SIZE


def started(store: Store, *, order: tuple[int, ...]) -> list[Store]:
    """The part of each process, which begin one after the other."""
    parts: dict[int, Store] = {}

    def begin(rank: int) -> None:
        parts[rank] = store_of_start(store, rank=rank, size=SIZE)

    # threads that end with the tests, should one wait for ever
    threads = [Thread(target=begin, args=[rank], daemon=True) for rank in order]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return [parts[rank] for rank in range(SIZE)]
