"""Training images per second out of tar shards, beside the same images in a folder; speed of indexing.

    python -m benchmarks.shards /path/to/photographs [ROUNDS]

Both read the same photographs, scaled to 500 x 375 first, with the same number of workers and in the same
order, from files that the system has in memory. A round is one epoch of each, one after the other; the
ratio is the median of the rounds'. Indexing reads the headers and captions of all shards, in one process.
"""

import statistics
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.command_line import arguments_of
from benchmarks.figures import tell
from benchmarks.loading import BATCH_SIZE, CPU, IMAGE_SIZE, prepare, rate
from benchmarks.timing import conditions, rates_figure
from miniclip.data import DataSource, Folder, Shards
from miniclip.data.loader import Loader
from miniclip.data.sampler import EpochBatches
from miniclip.data.shards.captions import CaptionReading
from miniclip.data.shards.indexing import index_tar
from miniclip.data.shards.writing import ShardWriter, parts_of, plan

NUM_WORKERS = (0, 2)
SHARD_BYTES = 10**7

SETTINGS: dict[str, Any] = {
    "val_fraction": 0.1,
    "split_seed": 0,
    "image_size": IMAGE_SIZE,
    "crop_scale": [0.5, 1.0],
    "flip": True,
    "limit": None,
    "seed": 0,
}


def batches(source: DataSource, num_workers: int) -> Iterable[Tensor]:
    """One epoch of a source."""
    train_set, _ = source.datasets()
    order = EpochBatches(len(train_set), batch_size=BATCH_SIZE, seed=0)
    loader = Loader(train_set, order, device=CPU, num_workers=num_workers)
    return (batch.images for batch in islice(loader, order.steps_left()))


def write_shards(source: DataSource, folder: Path) -> list[Path]:
    """The images of a source in shards."""
    parts = parts_of(source)
    folder.mkdir()
    writer = ShardWriter(parts, folder, skips_broken=False)
    for job in plan(parts, max_bytes=SHARD_BYTES):
        writer.write(job)
    return sorted(folder.glob("*.tar"))


def indexing_rate(shards: list[Path]) -> float:
    """Megabytes of shards that are indexed per second."""
    started = time.perf_counter()
    for path in shards:
        index_tar(path, CaptionReading())
    return sum(path.stat().st_size for path in shards) / 1e6 / (time.perf_counter() - started)


def main() -> None:
    arguments = arguments_of(__doc__, "folder", rounds=5)
    rounds = arguments.rounds

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "photographs"
        prepare(arguments.folder, root, copies=3)
        folder = Folder(root=str(root), **SETTINGS)
        paths = write_shards(folder, Path(temporary) / "shards")
        shards = Shards(
            urls=[str(path) for path in paths],
            val_urls=None,
            test_urls=None,
            caption_column=None,
            captions_per_line=False,
            shuffle_window=None,
            max_cache_gb=None,
            **SETTINGS,
        )

        print(conditions("torch", "torchvision", "pillow"))
        speeds = [indexing_rate(paths) for _ in range(rounds)]
        print(f"indexing {len(paths)} shards: {statistics.median(speeds):,.0f} MB/s", flush=True)

        for num_workers in NUM_WORKERS:
            rates: dict[str, list[float]] = {"folder": [], "shards": []}
            for _ in range(rounds):
                rates["folder"].append(rate(batches(folder, num_workers)))
                rates["shards"].append(rate(batches(shards, num_workers)))

            print(f"{statistics.median(rates['shards']):.0f} images/s", end="  ")
            name = f"shards, {num_workers} workers"
            tell(rates_figure(name, rates["shards"], "the folder", rates["folder"]))


if __name__ == "__main__":
    main()
