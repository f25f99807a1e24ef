"""Disks that take no more: a limit on the size of files, or a disk that is full or read-only."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

resource = pytest.importorskip("resource", reason="limits on files are POSIX's")


def limit_files(num_bytes: int) -> None:
    """Let no file of this process grow beyond so many bytes; writing more is an error."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, most))


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """The same within a context."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit_files(num_bytes)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def tiny_disk(place: Path, *, megabytes: int) -> Iterator[Path]:
    """A disk of its own, for those who may mount one."""
    place.mkdir()
    size = f"size={megabytes}m"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", place], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a disk")
    try:
        yield place
    finally:
        while place.is_mount():
            subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path) -> None:
    """Write until nothing goes onto a disk any more."""
    with suppress(OSError), open(filler(disk), "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def filler(disk: Path) -> Path:
    """The file that `fill` writes; without it there is room again."""
    return disk / "filler"


def make_read_only(disk: Path) -> None:
    """Let nothing be written onto a disk, but into files that are open already."""
    subprocess.run(["mount", "--bind", disk, disk], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", disk], check=True)
