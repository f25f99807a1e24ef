"""How processes that torchrun has started again find each other, and not those that have ended.

torchrun keeps one store for all restarts. Where a process reads there what another one wrote, it may read
the address of one that has ended, and wait for it in vain.
"""

import os
import time
import uuid

from torch.distributed import PrefixStore, Store

LOOK_SECONDS = 0.02
"""How often a process looks for what another one is to write."""


def is_kept_by_torchrun() -> bool:
    """Whether the store outlives these processes."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def store_of_start(store: Store, *, rank: int, size: int) -> Store:
    """A part of the store that holds nothing of earlier processes; returns when all have come.

    The first process names it, and tells the name to each other one under a key that this one has drawn:
    nobody who has ended knows that key. The count of restarts would not do, as a node that joins later
    begins at 0.
    """
    name = _named_for_others(store, size) if rank == 0 else _named_by_first(store, rank)
    return PrefixStore(name, store)


def _named_for_others(store: Store, size: int) -> str:
    name = uuid.uuid4().hex
    missing = set(range(1, size))

    while missing:
        for other in sorted(missing):
            if store.check([f"{name}/has/{other}"]):
                missing.remove(other)
            elif store.check([f"key/{other}"]):  # it may be that of one that has ended
                store.set(f"name/{store.get(f'key/{other}').decode()}", name)
        time.sleep(LOOK_SECONDS)
    return name


def _named_by_first(store: Store, rank: int) -> str:
    key = uuid.uuid4().hex
    store.set(f"key/{rank}", key)

    # a wait inside of the store would let no signal through
    while not store.check([f"name/{key}"]):
        time.sleep(LOOK_SECONDS)
    name = store.get(f"name/{key}").decode()
    store.set(f"{name}/has/{rank}", "yes")
    return name
