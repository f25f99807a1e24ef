"""Freed memory that stays with the process: fewer pages to fill, and the same results."""

import os
import subprocess
import sys

import pytest
import torch

from miniclip import allocator
from miniclip.allocator import keep_freed_memory
from tests.conftest import ROOT

NEEDS_GLIBC = pytest.mark.skipif(
    not allocator._is_plain_glibc() or allocator._is_tuned(), reason="needs glibc as it comes"
)

FAULTS = """
import resource
import numpy
from miniclip.allocator import keep_freed_memory

def fill():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.full(3 * 2**24, 1, numpy.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keeps = KEEP
fill()
print(fill())
"""
"""Prints how many pages the system gives for 48 MiB that were freed before."""


def num_faults(keep: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.replace("KEEP", keep)],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@NEEDS_GLIBC
def test_freed_memory_is_taken_again_without_the_system() -> None:
    assert num_faults("keep_freed_memory()") < 10 < num_faults("False") // 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "100000"),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=100000"),
        ("LD_PRELOAD", "/usr/lib/libjemalloc.so.2"),
        ("LD_PRELOAD", "/usr/lib/libtcmalloc.so"),
    ],
)
def test_what_the_user_chose_stands(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert not keep_freed_memory()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()


def trained_weight() -> torch.Tensor:
    """Weights of a small convolution after some steps, whose buffers are freed and taken again."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 8, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(4):
        loss = model(torch.randn(8, 3, 40, 40)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.cat([each.detach().flatten() for each in model.parameters()])


@NEEDS_GLIBC
def test_a_training_gives_the_same_bits() -> None:
    before = trained_weight()
    assert keep_freed_memory()
    assert torch.equal(trained_weight(), before)
