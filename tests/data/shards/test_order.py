"""The order of images out of shards: the same whatever the workers, the processes and interruptions."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from miniclip.data import ImageTextDataset
from miniclip.data.loader import Loader
from miniclip.data.sampler import EpochBatches
from miniclip.distributed import World
from tests.data.shards.tars import shards, write_shards

CPU = torch.device("cpu")
BATCH_SIZE = 4
NUM_BATCHES = 6
"""Of four batches an epoch, so that the second one is reached."""

WINDOWS = pytest.mark.parametrize("shuffle_window", [None, 1, 2])


def training_set(folder: Path, shuffle_window: int | None) -> ImageTextDataset:
    """Eighteen images in six shards."""
    source = shards(folder, val_urls=str(folder / "train-0006.tar"), shuffle_window=shuffle_window)
    return source.datasets()[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven shards of three images, of which the last validates."""
    return write_shards(tmp_path_factory.mktemp("shards"), num_shards=7, num_images=3)


def captions(
    dataset: ImageTextDataset, *, world: World | None = None, num_workers: int = 0, start: int = 0
) -> list[list[str]]:
    """The captions of each batch, from the one called `start`."""
    order = EpochBatches(len(dataset), batch_size=BATCH_SIZE, seed=3, world=world, windows=dataset.windows)
    order.start_at(start // 4, BATCH_SIZE * (start % 4))
    loader = Loader(dataset, order, device=CPU, num_workers=num_workers)
    try:
        return [batch.captions for batch in islice(loader, NUM_BATCHES - start)]
    finally:
        loader.close()


@WINDOWS
def test_workers_processes_and_a_resume_read_the_same_images(
    folder: Path, shuffle_window: int | None
) -> None:
    dataset = training_set(folder, shuffle_window)
    expected = captions(dataset)
    assert len({caption for batch in expected[:4] for caption in batch}) == 16

    for num_workers in (0, 2):
        # each way of reading opens the shards anew
        dataset = training_set(folder, shuffle_window)
        assert captions(dataset, num_workers=num_workers, start=3) == expected[3:]

    halves = [captions(dataset, world=World(rank, 2)) for rank in range(2)]
    assert [first + second for first, second in zip(*halves, strict=True)] == expected
    halves = [captions(dataset, world=World(rank, 2), num_workers=2, start=5) for rank in range(2)]
    assert halves[0][0] + halves[1][0] == expected[5]


@pytest.mark.parametrize("shuffle_window", [1, 2, 4])
def test_few_shards_are_read_at_a_time(folder: Path, shuffle_window: int) -> None:
    dataset = training_set(folder, shuffle_window)
    assert dataset.windows is not None
    orders = [
        EpochBatches(18, batch_size=1, seed=seed, windows=dataset.windows)._order(epoch)
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert len({tuple(order) for order in orders}) == 3

    for order in orders:
        assert sorted(order) == list(range(18))
        for start in range(0, 18, 3 * shuffle_window):
            window = order[start : start + 3 * shuffle_window]
            assert len({dataset.windows.file_of[index] for index in window}) <= shuffle_window


def test_a_window_of_all_shards_and_items_of_every_caption(folder: Path) -> None:
    dataset = ImageTextDataset(training_set(folder, 3).split, training_set(folder, 3).crop, captions="all")
    assert dataset.windows is not None and len(dataset.windows.file_of) == len(dataset)
    assert training_set(folder, None).windows is None
