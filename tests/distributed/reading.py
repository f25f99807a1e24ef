"""One process out of several that reads batches, for test_reading.py."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist

from miniclip.data import ImageTextDataset
from miniclip.data.loader import Loader
from miniclip.data.streamed import StreamedDataset
from miniclip.distributed import World

BATCH_SIZE = 4
"""Of both processes."""


def read(
    folder: Path,
    training_sets: dict[str, Callable[[], ImageTextDataset]],
    start: int,
    num_workers: int,
    is_killed: bool,
) -> None:
    """Write down the captions of two batches of each data set, and where a stream stands behind them.

    Args:
        start: number of the first batch.
        is_killed: die at the end without a word, as a process does whose memory is taken.
    """
    multiprocessing.set_start_method("fork", force=True)  # of its workers; this process itself has a server
    dist.init_process_group("gloo")
    loaders = [
        _read(folder / name, training_set(), start, num_workers)
        for name, training_set in training_sets.items()
    ]
    dist.barrier()
    if is_killed:
        for worker in multiprocessing.active_children():  # they would notice it in five seconds
            worker.kill()
        os.kill(os.getpid(), signal.SIGKILL)
    for loader in loaders:
        loader.close()
    dist.destroy_process_group()


def _read(out: Path, dataset: ImageTextDataset, start: int, num_workers: int) -> Loader:
    world, state = World.current(), out / "state.pt"
    if isinstance(dataset, StreamedDataset) and state.exists():
        dataset.load_state_dict(torch.load(state))
    dist.barrier()

    batches = dataset.batches(batch_size=BATCH_SIZE, seed=3, accumulate_steps=1, world=world)
    batches.start_at(0, start * BATCH_SIZE)
    loader = Loader(dataset, batches, device=torch.device("cpu"), num_workers=num_workers)
    for number, batch in enumerate(islice(loader, 2), start):
        (out / f"{number} of {world.rank}").write_text("\n".join(batch.captions))
        batches.trained_on(1)
        if isinstance(dataset, StreamedDataset) and world.is_main:
            torch.save(dataset.state_dict(), state)
    return loader
