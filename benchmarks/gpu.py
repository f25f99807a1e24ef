"""Training images per second on a GPU, each way to launch a step, and their share of its arithmetic.

    python -m benchmarks.gpu [--size 224] [--batch-size 256] [--precision bf16 ...] [--data FOLDER]

A resident batch shows what the step takes; with `--data`, a folder of flickr8k's layout, the loader feeds
real photographs that are decoded once. The limit is a product of two 8,192 x 8,192 matrices in bfloat16,
measured in the same run; the arithmetic of a step is what torch's counter finds in it.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.steps import noise, step
from benchmarks.timing import conditions
from miniclip.config import instantiate
from miniclip.config.compose import compose
from miniclip.data.batch import Batch
from miniclip.data.loader import Loader
from miniclip.data.sampler import EpochBatches
from miniclip.training import TrainingStep
from miniclip.training.profiler import peak_flops

OPTIMIZERS = ("adamw", "sam", "sam_norm_only", "muon")

WAYS = {
    "plain": (),
    "graphs": ("trainer.cuda_graphs=true",),
    "compiled": ("trainer.compile=true",),
    "compiled, graphs": ("trainer.compile=true", "trainer.cuda_graphs=true"),
}

WARM_UP, STEPS, ROUNDS = 12, 20, 3


class Figure(NamedTuple):
    """What was measured of one step.

    Attributes:
        images_per_second: the median over the rounds.
        share_of_peak: of the measured matrix product's arithmetic.
        peak_gb: memory.
    """

    optimizer: str
    precision: str
    way: str
    source: str
    images_per_second: float
    share_of_peak: float
    peak_gb: float

    def __str__(self) -> str:
        return (
            f"{self.optimizer:14} {self.precision:5} {self.way:17} {self.source:10} "
            f"{self.images_per_second:8,.0f} images/s {self.share_of_peak:6.1%} of peak "
            f"{self.peak_gb:6.2f} GB"
        )


def photographs(folder: Path, batch_size: int, image_size: int) -> Iterator[Batch]:
    """Batches of a folder's photographs without an end, decoded once, as training reads them."""
    cfg = compose("data=flickr8k", f"data.root={folder}", "data.cache=memory", f"image_size={image_size}")
    train_set = instantiate.make(cfg, "data").training_sets().train
    tokenizer = instantiate.make(cfg, "tokenizer")
    tokenizer.fit(caption for own in train_set.split.captions for caption in own)
    tokenizer.precompute(caption for own in train_set.split.captions for caption in own)
    order = EpochBatches(len(train_set), batch_size=batch_size, seed=0, accumulate_steps=1)
    loader = Loader(
        train_set,
        order,
        device=torch.device("cuda"),
        num_workers=4,
        tokenizer=tokenizer,
        resides=True,
    )
    return iter(loader)


def rate(training_step: TrainingStep, batches: Iterator[Batch], batch_size: int) -> float:
    """Images per second."""
    for batch in itertools.islice(batches, WARM_UP):
        training_step([batch])
    rates = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for batch in itertools.islice(batches, STEPS):
            training_step([batch])
        torch.cuda.synchronize()
        rates.append(STEPS * batch_size / (time.perf_counter() - started))
    return statistics.median(rates)


def flops_of_step(training_step: TrainingStep, batch: Batch) -> int:
    """Arithmetic of a plain step, by torch's counter."""
    with FlopCounterMode(display=False) as counter:
        training_step([batch])
    return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp16"])
    parser.add_argument("--optimizer", nargs="+", default=OPTIMIZERS)
    parser.add_argument("--way", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    print(conditions("torch", "torchvision"))
    peak = peak_flops(torch.device("cuda"), torch.bfloat16)
    print(f"8,192 x 8,192 matrices in bfloat16: {peak / 1e12:.0f} TFLOP/s", flush=True)
    resident = noise(args.batch_size, args.size, num_tokens=16, device=torch.device("cuda"))
    figures: list[Figure] = []
    for precision, optimizer in itertools.product(args.precision, args.optimizer):
        shared = [
            f"optimizer={optimizer}",
            f"precision={precision}",
            "device=cuda",
            f"image_size={args.size}",
        ]
        flops = flops_of_step(step(*shared), resident)
        for way in args.way:
            sources: dict[str, Iterator[Batch]] = {"resident": itertools.repeat(resident)}
            if args.data is not None:
                sources["photos"] = photographs(args.data, args.batch_size, args.size)
            training_step = step(*shared, *WAYS[way])
            for source, batches in sources.items():
                torch.cuda.reset_peak_memory_stats()
                images_per_second = rate(training_step, batches, args.batch_size)
                share = images_per_second / args.batch_size * flops / peak
                memory = torch.cuda.max_memory_allocated() / 1e9
                figures.append(Figure(optimizer, precision, way, source, images_per_second, share, memory))
                print(figures[-1], flush=True)
    if args.json is not None:
        rows = [figure._asdict() for figure in figures]
        args.json.write_text(json.dumps({"peak_flops": peak, "figures": rows}, indent=1))


if __name__ == "__main__":
    main()
