"""Members of tar files: all kinds of headers, and files that are none or are damaged."""

import gzip
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from miniclip.data.shards.tar import BLOCK, BadShard, Member, has_end_mark, members
from tests.data.shards.tars import samples, write_tar

LONG = "/".join(["a folder with a long name"] * 12) + "/photograph.jpg"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["a.jpg", "folder of some name/" * 6 + "a.jpg", LONG, "straße/ü.jpg"])
def test_members_are_those_that_tarfile_finds(tmp_path: Path, form: int, name: str) -> None:
    if form == tarfile.USTAR_FORMAT and name == LONG:
        name = LONG[-150:]
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=form, pax_headers={"comment": "x"}) as tar:
        for each, size in (("first.txt", 0), (name, 700), ("last.txt", BLOCK)):
            info = tarfile.TarInfo(each)
            info.size = size
            tar.addfile(info, io.BytesIO(b"x" * size))
        folder, link = tarfile.TarInfo("folder"), tarfile.TarInfo("link.jpg")
        folder.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.SYMTYPE, "/etc/" + "p" * 200
        tar.addfile(folder)
        tar.addfile(link) if form != tarfile.USTAR_FORMAT else None

    with tarfile.open(path) as tar:
        expected = [Member(each.name, each.offset_data, each.size, each.isfile()) for each in tar]
    found = list(members(path))
    assert found == expected
    assert has_end_mark(path, found[-1])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"no tar at all, but long enough for a header" * 20, "is no tar file"),
        (b"short", "is no tar file"),
        (gzip.compress(b"x" * 2000, mtime=0), r"is compressed \(gzip\)"),
    ],
)
def test_files_that_are_no_tar(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(BadShard, match=rf"{path} {problem}"):
        list(members(path))


def test_every_cut_is_told(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", samples([0]))
    content = whole.read_bytes()
    found = list(members(whole))
    cut = tmp_path / "cut.tar"

    for length in range(0, found[-1].offset + BLOCK, 100):
        cut.write_bytes(content[:length])
        try:
            read = list(members(cut))
        except BadShard as error:
            assert "cut off" in str(error) or "damaged at byte" in str(error) or "no tar" in str(error)
        else:
            assert read == found[: len(read)] and not (read and has_end_mark(cut, read[-1]))


def test_damage_is_told_with_its_byte(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", samples([0, 1]))
    second = list(members(path))[1].offset - BLOCK
    content = bytearray(path.read_bytes())
    content[second + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadShard, match=rf"damaged at byte {second:,} \(what stands there is no header\)"):
        list(members(path))


def header(**fields: Any) -> bytes:
    """A header with fields of a forger's, and a right checksum."""
    block = bytearray(tarfile.TarInfo("a.jpg").tobuf()[:BLOCK])
    places = {"size": (124, 136), "type": (156, 157)}
    for name, value in fields.items():
        start, end = places[name]
        block[start:end] = value.ljust(end - start, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        (header(size=b"-0000000512"), "is no tar file"),
        (header(size=b"\xff" * 12), "is no tar file"),
        (header(size=b"\x80" + b"\xff" * 11), "is cut off"),
        (header(size=b"77777777777"), "is cut off"),
        (header(size=b"1_0"), "is no tar file"),
        (header(size=b"00000000010", type=b"x") + b"9" * 8 + bytes(504), "damaged at byte 512"),
        (header(size=b"00000000010", type=b"x") + b"0 path=b" + bytes(504), "damaged at byte 512"),
    ],
)
def test_forged_headers(tmp_path: Path, block: bytes, problem: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(block + bytes(2 * BLOCK))
    with pytest.raises(BadShard, match=problem):
        list(members(path))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs pipes with names")
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(BadShard, match="is no regular file"):
        list(members(tmp_path / "a.tar"))
