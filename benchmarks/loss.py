"""Time and memory of the loss in tiles, beside open_clip's and ours with all similarities at once.

    python -m benchmarks.loss [ROUNDS] [BATCH_SIZE]

Needs the extra `bench`. Forward and backward, by the features of both sides and by the scale, in float32 at
width 512. The extra memory is the highest resident set of a fresh process, as Linux tells it, over the one
just before. It is told as it is, and without both sides' gradients, which every loss returns. At the larger
batch only the tiles are run.
"""

import ctypes
import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.command_line import arguments_of
from benchmarks.figures import tell
from benchmarks.timing import alternate, conditions
from miniclip.losses import ClipLoss

BATCH_SIZE = 8192
LARGER = 65536
WIDTH = 512
CHUNK_SIZE = 512
MIB = 2**20

RIVAL, AT_ONCE, TILED = "open_clip", "MiniCLIP", f"MiniCLIP, chunk_size={CHUNK_SIZE}"


class Batch(NamedTuple):
    """What the losses are differentiated by."""

    images: Tensor
    texts: Tensor
    scale: Tensor

    @classmethod
    def of(cls, size: int) -> "Batch":
        """Random unit vectors."""
        generator = torch.Generator().manual_seed(0)
        features = (torch.randn(size, WIDTH, generator=generator) for _ in range(2))
        images, texts = (torch.nn.functional.normalize(x, dim=1).requires_grad_() for x in features)
        return cls(images, texts, torch.tensor(14.3, requires_grad=True))


def make(name: str) -> Callable[..., Tensor]:
    """A loss by its name: `(images, texts, scale) -> ()`."""
    if name == RIVAL:
        from open_clip.loss import ClipLoss as OpenClipLoss

        return OpenClipLoss()
    return ClipLoss(chunk_size=CHUNK_SIZE if name == TILED else None)


def gradients(loss: Callable[..., Tensor], batch: Batch) -> tuple[Tensor, ...]:
    """Forward and backward once."""
    return torch.autograd.grad(loss(*batch), batch)


def resident(field: str) -> float:
    """Memory of this process in MiB, "VmRSS", or its highest so far, "VmHWM"."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def extra_memory(name: str, size: int, num_threads: int) -> float:
    """MiB that forward and backward take at their peak over what was there before; in a fresh process."""
    torch.set_num_threads(num_threads)
    loss, batch = make(name), Batch.of(size)
    gradients(loss, Batch.of(4 * CHUNK_SIZE))  # what libraries take on their first calls is no part of it

    ctypes.CDLL(None).malloc_trim(0)  # free memory that is still resident would be taken unseen
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
    before = resident("VmRSS")
    gradients(loss, batch)
    return resident("VmHWM") - before


def extra_memory_alone(name: str, size: int) -> float:
    """The same, measured in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(extra_memory, (name, size, torch.get_num_threads()))


def error(name: str, batch: Batch) -> float:
    """Largest relative distance of a loss's gradients from the rival's."""
    pairs = zip(gradients(make(name), batch), gradients(make(RIVAL), batch), strict=True)
    return max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs)


def main() -> None:
    arguments = arguments_of(__doc__, rounds=3, batch_size=BATCH_SIZE)
    rounds, size = arguments.rounds, arguments.batch_size
    names = (RIVAL, AT_ONCE, TILED)
    memory = {name: extra_memory_alone(name, size) for name in names}

    batch = Batch.of(size)
    rivals = {name: partial(gradients, make(name), batch) for name in names}
    times = alternate(rivals, rounds=rounds, warmup=1)

    print(conditions("torch", "open_clip_torch"))
    print(f"batch {size:,}, width {WIDTH}; gradients of the features: {_of_features(size):.0f} MiB")
    returned = _of_features(size)
    for name in names:
        all_of_it, beyond = memory[name], memory[name] - returned
        tell(times.figure(name, over=RIVAL, unit="times the seconds"))
        print(f"{times.median(name):.2f} s", end="; ")
        print(f"{all_of_it:,.1f} MiB, 1/{memory[RIVAL] / all_of_it:.1f} of {RIVAL}'s", end="; ")
        smaller = (memory[RIVAL] - returned) / beyond
        print(f"beyond the gradients {beyond:,.1f} MiB, 1/{smaller:.0f} of {RIVAL}'s", end="; ")
        print(f"gradients {error(name, batch):.1e} off")

    if size == BATCH_SIZE:
        extra, returned = extra_memory_alone(TILED, LARGER), _of_features(LARGER)
        print(f"{TILED} at {LARGER:,}: {extra:,.0f} MiB, {extra - returned:,.0f} beyond the gradients")


def _of_features(size: int) -> float:
    return 2 * size * WIDTH * 4 / MIB


if __name__ == "__main__":
    main()
