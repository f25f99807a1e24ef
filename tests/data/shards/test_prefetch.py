"""Remote shards of the next window, fetched while the current one is read."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from miniclip import data
from miniclip.data.images import Windows
from miniclip.data.loader import Loader
from miniclip.data.sampler import EpochBatches, files_by_window
from miniclip.data.shards import cache, images, remote
from miniclip.data.shards.captions import CaptionReading
from miniclip.data.shards.opening import open_local
from miniclip.errors import UserError
from tests.data.shards.server import ShardServer, serving
from tests.data.shards.tars import shards, write_shards

pytest.importorskip("aiohttp", reason="needs the extra shards")

NUM_SHARDS = 6


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ShardServer]:
    """A server of six shards of four images, with their indexes."""
    monkeypatch.setattr(remote, "WAIT_SECONDS", 0.001)
    images._open_files.files.clear()
    folder = write_shards(tmp_path / "served", num_shards=NUM_SHARDS)
    open_local([str(path) for path in sorted(folder.glob("*.tar"))], CaptionReading(), folder=tmp_path)
    with serving(folder) as server:
        yield server


def training_set(server: ShardServer, tmp_path: Path, **changes: Any) -> data.ImageTextDataset:
    """Five shards that train, of which one is mixed at a time."""
    urls = f"{server.url}/train-{{0000..0005}}.tar"
    val = f"{server.url}/train-0005.tar"
    settings = {"val_urls": val, "shuffle_window": 1, "cache_dir": str(tmp_path / "cache"), **changes}
    return shards(urls, **settings).datasets()[0]


def batches_of(dataset: data.ImageTextDataset) -> EpochBatches:
    return EpochBatches(len(dataset), batch_size=2, seed=0, windows=dataset.windows)


def fetched(server: ShardServer) -> list[str]:
    """Names of the shards that were asked for, in order."""
    return [name for name, _ in server.served if name.endswith(".tar")]


def wait_for(server: ShardServer, count: int) -> None:
    deadline = time.monotonic() + 20
    while len(fetched(server)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def num_threads() -> Callable[[], int]:
    """How many threads fetch that were not there before the test."""
    before = set(threading.enumerate())
    return lambda: sum(each.name == "prefetch" for each in set(threading.enumerate()) - before)


@pytest.mark.parametrize("num_files", [1, 2, 3])
def test_files_of_windows_are_those_of_their_images(num_files: int) -> None:
    windows = Windows(np.repeat(np.array([7, 3, 5, 1, 2]), [4, 1, 3, 5, 2]), num_files)
    order = EpochBatches(15, batch_size=1, seed=0, windows=windows)._order(0)
    found = files_by_window(order, windows)
    ends = [start for start, _ in found[1:]] + [15]
    for (start, files), end in zip(found, ends, strict=True):
        assert set(files) == set(windows.file_of[order[start:end]]) and len(files) <= num_files
    assert sorted(file for _, files in found for file in files) == [1, 2, 3, 5, 7]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_next_window_is_fetched_while_one_is_read(
    server: ShardServer, tmp_path: Path, num_workers: int, num_threads: Callable[[], int]
) -> None:
    dataset = training_set(server, tmp_path)
    expected = list(batches_of(dataset)._order(0))
    order = batches_of(dataset)
    loader = Loader(dataset, order, device=torch.device("cpu"), num_workers=num_workers)

    reading = iter(loader)
    found = next(reading).image_ids.tolist()
    wait_for(server, 2)
    assert dataset.windows is not None
    by_window = [f"train-{dataset.windows.file_of[expected[start]]:04}.tar" for start in range(0, 20, 4)]
    assert fetched(server)[:2] == by_window[:2]

    found += [index for batch in islice(reading, 9) for index in batch.image_ids.tolist()]
    assert found == expected
    assert sorted(fetched(server)) == sorted(by_window)
    loader.close()
    order.close()
    assert num_threads() == 0


def test_nothing_is_fetched_ahead_into_a_cache_of_one_window(server: ShardServer, tmp_path: Path) -> None:
    size = max(path.stat().st_size for path in server.folder.glob("*.tar"))
    assert batches_of(training_set(server, tmp_path, max_cache_gb=2 * size / 1e9)).prefetcher is not None
    assert batches_of(training_set(server, tmp_path, max_cache_gb=1.9 * size / 1e9)).prefetcher is None
    assert batches_of(shards(server.folder, shuffle_window=1).datasets()[0]).prefetcher is None


def test_an_end_waits_for_one_piece_at_most(
    server: ShardServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_threads: Callable[[], int],
) -> None:
    monkeypatch.setattr(cache, "MOST_BYTES", 512)
    order = batches_of(training_set(server, tmp_path))
    server.seconds = 0.2
    next(iter(order))
    wait_for(server, 1)
    order.close()
    assert num_threads() == 0
    assert len(fetched(server)) <= 2


def test_what_cannot_be_fetched_is_told_by_who_needs_it(
    server: ShardServer, tmp_path: Path, num_threads: Callable[[], int]
) -> None:
    dataset = training_set(server, tmp_path)
    order = batches_of(dataset)
    for path in server.folder.glob("*.tar"):
        path.unlink()
    keys = next(iter(order))
    deadline = time.monotonic() + 20
    while num_threads() > 0:  # there is nothing more to fetch
        assert time.monotonic() < deadline
        time.sleep(0.005)
    with pytest.raises(UserError, match=r"is not there, or not for you .*Check data\.urls"):
        dataset.item(keys[0])
    order.close()
