"""Time and memory of a step in micro-batches, and with checkpointed activations, over a plain one.

    python -m benchmarks.micro_batches [ROUNDS] [SETTING=VALUE ...]

The image tower is a ResNet-34 at 64 pixels, a batch 2,048 pairs, a micro-batch 128 of them. Times alternate
in one process; memory is what a few steps in a process of their own add to its peak, on a GPU to its
allocator's. Beside the batch in micro-batches stands a whole batch of one micro-batch's size.
"""

import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch

from benchmarks.command_line import arguments_of
from benchmarks.figures import Figure, tell
from benchmarks.steps import device_of, noise, step
from benchmarks.timing import alternate, conditions
from miniclip.data.batch import Batch
from miniclip.training import TrainingStep

BATCH_SIZE = 2_048
MICRO_BATCH_SIZE = 128
IMAGE_SIZE = 64
NUM_TOKENS = 12

MEMORY_STEPS = 2
"""Steps whose peak is measured: the second has the optimizer's state."""


class Rival(NamedTuple):
    """One way to take a step."""

    batch_size: int
    settings: Sequence[str]

    def prepared(self, shared: Sequence[str]) -> tuple[TrainingStep, list[Batch]]:
        """Its step, under settings that all share, and what it is taken on."""
        training_step = step(f"image_size={IMAGE_SIZE}", *shared, *self.settings)
        device = device_of(training_step)
        return training_step, [noise(self.batch_size, IMAGE_SIZE, num_tokens=NUM_TOKENS, device=device)]


CHECKPOINTED = "encoder.image.checkpoint_activations=true"
IN_PARTS = f"trainer.micro_batch_size={MICRO_BATCH_SIZE}"

RIVALS = {
    "whole batch": Rival(BATCH_SIZE, []),
    "micro-batches": Rival(BATCH_SIZE, [IN_PARTS]),
    "checkpointed": Rival(BATCH_SIZE, [CHECKPOINTED]),
    "both": Rival(BATCH_SIZE, [IN_PARTS, CHECKPOINTED]),
    "one micro-batch": Rival(MICRO_BATCH_SIZE, []),
}


def extra_peak(rival: Rival, shared: Sequence[str]) -> int:
    """What steps add to the peak of a process, bytes, over model and batch."""
    training_step, batches = rival.prepared(shared)
    device = device_of(training_step)
    before = _peak(device)

    for _ in range(MEMORY_STEPS):
        training_step(batches)
    return _peak(device) - before


def _peak(device: torch.device) -> int:
    """The most memory that this process has held, bytes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)

    # Unix only, so that the times can be had elsewhere
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_a_process(name: str, shared: Sequence[str]) -> int:
    """`extra_peak` of a rival, in a process that has done nothing else."""
    command = [sys.executable, "-m", "benchmarks.micro_batches", "--memory", name, *shared]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(answer.stdout.split()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--memory"]:
        print(extra_peak(RIVALS[sys.argv[2]], sys.argv[3:]))
        return

    arguments = arguments_of(__doc__, rounds=3, settings=["optimizer=adamw", "encoder/image=resnet34"])
    rounds = arguments.rounds
    shared = arguments.settings
    memory = {name: in_a_process(name, shared) for name in RIVALS}

    steps = {
        name: step(f"image_size={IMAGE_SIZE}", *shared, *rival.settings) for name, rival in RIVALS.items()
    }
    device = device_of(steps["whole batch"])
    batches = {
        name: [noise(rival.batch_size, IMAGE_SIZE, num_tokens=NUM_TOKENS, device=device)]
        for name, rival in RIVALS.items()
    }
    times = alternate(
        {name: partial(each, batches[name]) for name, each in steps.items()}, rounds=rounds, warmup=1
    )

    print(conditions("torch", "torchvision"))
    print(f"{' '.join(shared)}: median of {rounds} alternating steps; peak of {MEMORY_STEPS} steps")
    for name in RIVALS:
        print(f"{1000 * times.median(name):8.0f} ms", end="  ")
        tell(times.figure(name, over="whole batch", unit="times the seconds"))
        of_one = memory[name] / memory["one micro-batch"]
        print(f"{memory[name] / 2**20:8.0f} MiB", end="  ")
        tell(Figure(name, "one micro-batch", "times the memory", of_one, of_one, of_one, 1))


if __name__ == "__main__":
    main()
