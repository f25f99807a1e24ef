"""Indexes of shards: read back, made anew where they do not fit, and never trusted."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from miniclip.data.shards import index as module
from miniclip.data.shards.captions import CaptionReading
from miniclip.data.shards.index import Stamp, Unfit, read_index, write_index
from miniclip.data.shards.indexing import index_tar
from miniclip.data.shards.opening import beside, open_local
from miniclip.data.shards.tar import members
from miniclip.errors import UserError
from tests.data.shards.tars import samples, shards, write_shards, write_tar

READING = CaptionReading()


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A shard of five whole samples and one without an image."""
    return write_tar(tmp_path / "set" / "a.tar", {**samples(range(5)), "x.txt": "übrig".encode()})


def opened(shard: Path, *, folder: Path | None = None) -> module.ShardIndex:
    """The index of a shard as a run reads it."""
    return open_local([str(shard)], READING, folder=folder or shard.parent / "cache")[0].index


def as_plain(index: module.ShardIndex) -> tuple[object, ...]:
    """All that an index holds."""
    captions = [list(own) for own in index.captions]
    return list(index.keys), index.offsets.tolist(), index.sizes.tolist(), captions, index.left_out


def test_an_index_is_read_back_as_it_was_written(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(shard)
    assert beside(shard).name == "a.tar.index"
    monkeypatch.setattr("miniclip.data.shards.opening.index_tar", None)  # from here on it is read
    assert as_plain(opened(shard)) == as_plain(first)
    assert first.left_out == {"without an image": (1, "x")}

    content = shard.read_bytes()
    images = [content[start : start + size] for start, size in zip(first.offsets, first.sizes, strict=True)]
    assert images == [samples([number])[f"{number:04}.jpg"] for number in range(5)]


def test_a_shard_without_samples_has_an_index(tmp_path: Path) -> None:
    empty = write_tar(tmp_path / "a.tar", {})
    assert len(opened(empty)) == len(opened(empty)) == 0


def test_an_index_of_an_earlier_state_or_another_reading_is_made_anew(shard: Path) -> None:
    opened(shard)
    write_tar(shard, samples(range(7)))
    assert len(opened(shard)) == 7
    os.utime(shard, ns=(0, 0))
    assert read_index(beside(shard), Stamp.of(shard), READING) is None
    assert read_index(beside(shard), Stamp(shard.stat().st_size, ""), READING) is not None
    assert read_index(beside(shard), Stamp.of(shard), CaptionReading(per_line=True)) is None


def test_where_the_folder_is_not_writable_it_is_kept_in_the_cache(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(index: object, path: Path, *others: object) -> None:
        if path.parent in refused:
            raise PermissionError(13, "Permission denied", str(path))
        write_index(index, path, *others)  # type: ignore[arg-type]

    monkeypatch.setattr("miniclip.data.shards.opening.write_index", refuses)
    refused = [shard.parent, tmp_path / "cache"]
    opened(shard, folder=tmp_path / "cache")
    assert f"The index {beside(shard)} cannot be kept (Permission denied)" in caplog.text

    refused.pop()
    opened(shard, folder=tmp_path / "cache")
    monkeypatch.setattr("miniclip.data.shards.opening.index_tar", None)
    assert len(opened(shard, folder=tmp_path / "cache")) == 5
    assert not beside(shard).exists()


FORGERIES: dict[str, Callable[[dict[str, np.ndarray]], object]] = {
    "an offset behind the end": lambda index: index["offsets"].put(2, 2**40),
    "an offset before the start": lambda index: index["offsets"].put(2, -512),
    "an offset that overflows": lambda index: index["offsets"].put(2, 2**63 - 1),
    "a size behind the end": lambda index: index["sizes"].put(4, 2**40),
    "a size that overflows": lambda index: index["sizes"].put(0, 2**63 - 1),
    "a size below zero": lambda index: index["sizes"].put(0, -1),
    "texts behind the end": lambda index: index["caption_ends"].put(4, 2**40),
    "texts before the start": lambda index: index["key_ends"].put(2, -(2**62)),
    "texts that overflow": lambda index: index["key_ends"].put([1, 2], [2**62 + 1, -(2**62)]),
    "texts that are none": lambda index: index["captions"].fill(0xFF),
    "a text within a letter": lambda index: (
        index["captions"].put([5, 6], list("ü".encode())) or index["caption_ends"].put(0, 6)
    ),
    "lists without a caption": lambda index: index["list_ends"].put([0, 1], [0, 2]),
    "too few images": lambda index: index.update(offsets=index["offsets"][:2].copy()),
    "numbers of another kind": lambda index: index.update(offsets=index["offsets"].astype(np.float64)),
    "no captions": lambda index: index.pop("captions"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_index_is_told_and_made_anew(
    shard: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = as_plain(opened(shard))
    arrays = load_file(beside(shard))
    with module.safe_open(beside(shard), framework="np") as file:
        facts = file.metadata()
    FORGERIES[name](arrays)
    save_file(arrays, beside(shard), facts)

    with pytest.raises(Unfit):
        read_index(beside(shard), Stamp.of(shard), READING)
    assert as_plain(opened(shard)) == expected
    assert f"{beside(shard)} does not fit the shard {shard}: it " in caplog.text
    caplog.clear()
    assert as_plain(opened(shard)) == expected and not caplog.text


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x08" + bytes(7) + b'{"a":1}', b"{" * 5000])
def test_a_file_that_is_no_index_is_told_and_made_anew(
    shard: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    beside(shard).write_bytes(content)
    assert len(opened(shard)) == 5
    assert "does not fit the shard" in caplog.text


def test_a_shard_that_changes_under_its_index_is_told_where_it_is_read(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "set", num_shards=1)
    train, _ = shards(folder).splits()
    shard = folder / "train-0000.tar"
    content = shard.read_bytes()
    with open(shard, "rb+") as file:  # the same file, with other content
        file.write(content[512:] + bytes(512))
    with pytest.raises(UserError, match=rf"The shard {shard} has changed since it was indexed: at byte"):
        train.images[0]
    with open(shard, "rb+") as file:
        file.truncate(1000)
    with pytest.raises(UserError, match="has changed since it was indexed"):
        train.images[len(train) - 1]


def test_a_shard_cut_behind_a_member_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shard = write_tar(tmp_path / "a.tar", samples(range(5)))
    last = list(members(shard))[-1]
    with open(shard, "rb+") as file:
        file.truncate(last.offset + 512)
    with caplog.at_level(logging.WARNING):
        assert len(index_tar(shard, READING)) == 5
    assert "has no end mark behind 0004.txt; it may be cut off there" in caplog.text


def test_what_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", samples(range(4)))
    source = shards(shard)
    shard.unlink()
    with pytest.raises(UserError, match=r"a\.tar cannot be read \(No such file or directory\)"):
        source.splits()
