"""Remote shards: fetched over connections that drop, into a folder of limited size."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from miniclip import data
from miniclip.data.loader import Loader
from miniclip.data.sampler import EpochBatches
from miniclip.data.shards import cache, images, remote
from miniclip.data.shards.cache import ShardCache, fetch
from miniclip.data.shards.captions import CaptionReading
from miniclip.data.shards.opening import open_local
from miniclip.data.shards.remote import OutOfReach, facts_of, give_up_or_wait
from miniclip.errors import SettingError, UserError
from tests.data.shards.server import ShardServer, serving
from tests.data.shards.tars import samples, shards, write_shards, write_tar
from tests.data.sources.conftest import part_ids, sizes

pytest.importorskip("aiohttp", reason="needs the extra shards")

NUM_SHARDS = 4


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ShardServer]:
    """A server of four shards, and nobody who waits for it."""
    monkeypatch.setattr(remote, "WAIT_SECONDS", 0.001)
    images._open_files.files.clear()
    with serving(write_shards(tmp_path / "served", num_shards=NUM_SHARDS)) as server:
        yield server


def source(
    server: ShardServer, tmp_path: Path, name: str = "train-{0000..0003}.tar", **changes: Any
) -> data.Shards:
    """The server's shards as a source, kept in a folder of the test's."""
    return shards(f"{server.url}/{name}", cache_dir=str(tmp_path / "cache"), **changes)


def kept(tmp_path: Path) -> list[str]:
    """Names of the shards in the cache."""
    return sorted(path.name.partition("-")[2] for path in (tmp_path / "cache" / "shards").glob("*.tar"))


def test_remote_shards_are_the_local_ones(server: ShardServer, tmp_path: Path) -> None:
    near, far = shards(server.folder), source(server, tmp_path)
    assert part_ids(near) == part_ids(far)
    assert sizes(far) == sizes(near)
    for one, other in zip(near.splits(), far.splits(), strict=True):
        assert one.fingerprint() == other.fingerprint()
        assert all((one.images[row] == other.images[row]).all() for row in range(len(one)))


def test_an_index_beside_a_shard_spares_fetching_it(server: ShardServer, tmp_path: Path) -> None:
    open_local(
        [str(path) for path in sorted(server.folder.glob("*.tar"))], CaptionReading(), folder=tmp_path
    )
    train, _ = source(server, tmp_path).splits()
    assert {name for name, _ in server.served} == {f"train-{n:04}.tar.index" for n in range(NUM_SHARDS)}

    server.served.clear()
    train, _ = source(server, tmp_path).splits()
    assert not server.served
    assert train.images[0].shape == (3, 24, 20)
    assert kept(tmp_path) == ["train-0000.tar"]


def test_a_forged_index_of_a_server_is_told(
    server: ShardServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (server.folder / "train-0000.tar.index").write_bytes(b"\xff" * 100)
    source(server, tmp_path, "train-0000.tar").splits()
    assert f"does not fit the shard {server.url}/train-0000.tar: it is damaged" in caplog.text


def test_a_dropped_connection_is_gone_on_with(
    server: ShardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MOST_BYTES", 4096)
    monkeypatch.setattr(cache, "FEWEST_BYTES", 512)
    path = server.folder / "train-0000.tar"
    server.drops = [None, 100, 0, None, 1000, None, 17]
    fetch(f"{server.url}/{path.name}", path.stat().st_size, tmp_path / "fetched.tar")
    assert (tmp_path / "fetched.tar").read_bytes() == path.read_bytes()

    starts = [start for _, start in server.served]
    assert starts[:4] == [0, 4096, 4096, 4096] and starts == sorted(starts)
    assert [name.name for name in tmp_path.glob(".*")] == []


def test_a_killed_fetch_is_gone_on_with(server: ShardServer, tmp_path: Path) -> None:
    path = server.folder / "train-0000.tar"
    (tmp_path / ".a.tar.partial").write_bytes(path.read_bytes()[:5000])
    fetch(f"{server.url}/{path.name}", path.stat().st_size, tmp_path / "a.tar")
    assert (tmp_path / "a.tar").read_bytes() == path.read_bytes()
    assert server.served == [(path.name, 5000)]


def test_a_server_without_ranges_sends_all(server: ShardServer, tmp_path: Path) -> None:
    server.knows_ranges = False
    path = server.folder / "train-0000.tar"
    (tmp_path / ".a.tar.partial").write_bytes(path.read_bytes()[:5000])
    fetch(f"{server.url}/{path.name}", path.stat().st_size, tmp_path / "a.tar")
    assert (tmp_path / "a.tar").read_bytes() == path.read_bytes()


def test_a_connection_that_never_brings_anything_is_told(server: ShardServer, tmp_path: Path) -> None:
    server.drops = [0] * 100
    path = server.folder / "train-0000.tar"
    with pytest.raises(
        OutOfReach, match=rf"The shard {server.url}/{path.name} cannot be read \(.*tried 6 times"
    ):
        fetch(f"{server.url}/{path.name}", path.stat().st_size, tmp_path / "a.tar")
    assert len(server.served) == remote.TRIES


@pytest.mark.parametrize("name", ["train-0009.tar", "{x,y}.tar"])
def test_a_shard_that_is_not_there_is_told_at_once(server: ShardServer, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"\.tar is not there, or not for you .*Check data\.urls"):
        source(server, tmp_path, name).splits()


class ClientError(Exception):
    """An error as botocore lays it out, which s3fs names as the cause of its own."""

    def __init__(self, status: int):
        super().__init__("The specified bucket does not exist")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize(("status", "is_refused"), [(404, True), (403, True), (503, False)])
def test_what_a_storage_refuses_is_told_at_once(
    status: int, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    error = FileNotFoundError("The specified bucket does not exist")
    error.__cause__ = ClientError(status)
    if is_refused:
        with pytest.raises(OutOfReach, match=r"not for you .*Check data\.urls, and how you sign in"):
            give_up_or_wait("s3://bucket/a.tar", error, failures=1)
    else:
        give_up_or_wait("s3://bucket/a.tar", error, failures=1)
    assert waits == ([] if is_refused else [remote.WAIT_SECONDS])


def test_a_server_that_is_not_reached_is_asked_several_times(
    server: ShardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9/a\.tar cannot be read \(.*, tried 6 times"):
        shards("http://127.0.0.1:9/a.tar", cache_dir=str(tmp_path)).splits()
    assert waits == [remote.WAIT_SECONDS * factor for factor in (1, 2, 4, 8, 16)]


def test_what_a_server_gives_for_a_shard_may_be_none(server: ShardServer, tmp_path: Path) -> None:
    (server.folder / "page.tar").write_bytes(b"<html>sign in, please</html>" * 50)
    with pytest.raises(UserError, match=r"page\.tar is no tar file"):
        source(server, tmp_path, "page.tar").splits()


def test_the_shard_unused_for_longest_makes_room(server: ShardServer, tmp_path: Path) -> None:
    size = (server.folder / "train-0000.tar").stat().st_size
    urls = [f"{server.url}/train-{number:04}.tar" for number in range(NUM_SHARDS)]
    stamps = [facts_of(url) for url in urls]
    held = ShardCache(tmp_path / "cache" / "shards", max_bytes=2 * size + 100)

    first, second = (held.path(urls[number], stamps[number]) for number in (0, 1))
    os.utime(first, ns=(1, 1))
    os.utime(second, ns=(2, 2))
    held.path(urls[0], stamps[0])  # used again
    held.path(urls[2], stamps[2])
    assert kept(tmp_path) == ["train-0000.tar", "train-0002.tar"]

    small = ShardCache(tmp_path / "cache" / "shards", max_bytes=size - 1)
    with pytest.raises(
        SettingError, match=r"max_cache_gb=.*: is less than the shard .*train-0003\.tar takes"
    ):
        small.path(urls[3], stamps[3])


def test_a_run_reads_through_a_cache_of_one_shard(
    server: ShardServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    size = max(path.stat().st_size for path in server.folder.iterdir())
    expected = shards(server.folder).splits()[0]
    train = source(server, tmp_path, max_cache_gb=size / 1e9).splits()[0]
    assert "An epoch mixes remote shards of" in caplog.text

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(train.images.__getitem__, reversed(range(len(train)))))
    assert all((image == expected.images[row]).all() for row, image in enumerate(reversed(found)))
    assert len(kept(tmp_path)) == 1
    # what a process holds open is on the disk until then
    images._open_files._let_go()
    assert sum(shard.is_remote for shard in images._open_files.files) == 1


def test_worker_processes_share_a_cache(server: ShardServer, tmp_path: Path) -> None:
    size = max(path.stat().st_size for path in server.folder.iterdir())
    settings = {"max_cache_gb": 2 * size / 1e9, "shuffle_window": 1, "val_fraction": 0.1}
    train, _ = source(server, tmp_path, **settings).datasets()
    order = EpochBatches(len(train), batch_size=2, seed=0, windows=train.windows)

    loader = Loader(train, order, device=torch.device("cpu"), num_workers=2)
    batches = [batch.image_ids.tolist() for batch in islice(loader, 5)]
    loader.close()
    assert batches == [[index for _, index in keys] for keys in islice(order, 5)]
    assert len(kept(tmp_path)) <= 2


def test_no_more_than_some_files_are_open_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images._open_files.files.clear()
    monkeypatch.setattr(images, "MOST_OPEN", 2)
    train, _ = shards(write_shards(tmp_path), val_fraction=0.1).splits()
    assert [train.images[row].shape for row in range(len(train))] == [(3, 24, 20)] * len(train)
    assert len(images._open_files.files) == 2


def test_a_shard_that_changed_at_its_server_is_fetched_anew(server: ShardServer, tmp_path: Path) -> None:
    assert sizes(source(server, tmp_path, "train-0000.tar")) == ("seeded val", 3, 1)
    write_tar(server.folder / "train-0000.tar", samples(range(8)))
    assert sizes(source(server, tmp_path, "train-0000.tar")) == ("seeded val", 6, 2)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(
        UserError, match=r'data=shards needs a package for s3://: pip install -e "\.\[shards\]"'
    ):
        shards("s3://bucket/a.tar", cache_dir=str(tmp_path)).splits()
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(UserError, match=r'needs a package for http://: pip install -e "\.\[shards\]"'):
        shards("http://host/a.tar", cache_dir=str(tmp_path)).splits()
