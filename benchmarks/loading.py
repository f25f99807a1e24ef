"""Training images per second out of the loader, beside the usual torchvision pipeline.

    python -m benchmarks.loading /path/to/photographs [ROUNDS]

The rival is `Image.open -> RandomResizedCrop(224) -> ToTensor -> Normalize` in a DataLoader. Both read the
same photographs, scaled to 500 x 375 first, with the same number of workers; a round is one epoch of each,
five from the cache.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.command_line import arguments_of
from benchmarks.figures import tell
from benchmarks.timing import conditions, rates_figure
from miniclip.data import Folder
from miniclip.data.loader import Loader
from miniclip.data.sampler import EpochBatches
from miniclip.preprocessing import MEAN, STD

IMAGE_SIZE = 224
BATCH_SIZE = 64
NUM_WORKERS = 2
EPOCHS = {"none": 1, "disk": 5}
"""So that either takes more than a second."""

CPU = torch.device("cpu")


class Usual(Dataset[Tensor]):
    """The rival's dataset.

    Args:
        resize: torchvision's transform to the size that the model sees.
    """

    def __init__(self, files: list[Path], resize: Callable[[Image.Image], Image.Image]):
        self.files = files
        self.transform = transforms.Compose(
            [resize, transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.open(self.files[index]).convert("RGB"))


def usual_batches(files: list[Path]) -> Iterable[Tensor]:
    """One epoch of the rival."""
    dataset = Usual(files, transforms.RandomResizedCrop(IMAGE_SIZE))
    return DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True, num_workers=NUM_WORKERS, drop_last=True)


def our_batches(root: Path, cache: str, crop: str = "resized") -> Iterable[Tensor]:
    """A few epochs of ours; a cache is made on the first call."""
    source = Folder(
        root=str(root),
        val_fraction=0.1,
        split_seed=0,
        image_size=IMAGE_SIZE,
        crop=crop,
        crop_scale=[0.5, 1.0],
        flip=True,
        limit=None,
        seed=0,
        cache=cache,
        cache_dir=str(root.parent / "cache"),
    )
    train_set, _ = source.datasets()
    order = EpochBatches(len(train_set), batch_size=BATCH_SIZE, seed=0)
    loader = Loader(train_set, order, device=CPU, num_workers=NUM_WORKERS)
    return (batch.images for batch in islice(loader, EPOCHS[cache] * order.steps_left()))


def rate(batches: Iterable[Tensor]) -> float:
    """Images per second after the first two batches, during which the workers start."""
    count, started = 0, 0.0
    for number, images in enumerate(batches):
        if number == 1:
            started = time.perf_counter()
        elif number > 1:
            count += len(images)
    return count / (time.perf_counter() - started)


def prepare(photographs: Path, folder: Path, copies: int) -> list[Path]:
    """Scale the photographs to 500 x 375 and give each a caption; several names for each make an epoch."""
    folder.mkdir()
    files = []
    for path in sorted(photographs.rglob("*.jpg")):
        target = folder / path.name
        Image.open(path).convert("RGB").resize((500, 375)).save(target, quality=90)
        for copy in range(copies):
            name = target if copy == 0 else target.with_stem(f"{target.stem}-{copy}")
            if copy:
                name.hardlink_to(target)
            name.with_suffix(".txt").write_text(path.stem)
            files.append(name)

    return files


def main() -> None:
    arguments = arguments_of(__doc__, "folder", rounds=3)
    rounds = arguments.rounds

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "photographs"
        files = prepare(arguments.folder, root, copies=3)
        started = time.perf_counter()
        our_batches(root, "disk")
        print(f"building the cache of {len(files):,} images: {time.perf_counter() - started:.1f} s")
        our_batches(root, "disk", "shifted")

        rates: dict[str, list[float]] = {"usual": [], "uncached": [], "cached": [], "cached, shifted": []}
        for _ in range(rounds):
            rates["usual"].append(rate(usual_batches(files[::3])))
            rates["uncached"].append(rate(our_batches(root, "none")))
            rates["cached"].append(rate(our_batches(root, "disk")))
            rates["cached, shifted"].append(rate(our_batches(root, "disk", "shifted")))
            print("  ".join(f"{name} {measured[-1]:.0f}" for name, measured in rates.items()), flush=True)

    print(conditions("torch", "torchvision", "pillow"))
    for name in ("uncached", "cached", "cached, shifted"):
        print(f"{statistics.median(rates[name]):.0f} images/s", end="  ")
        tell(rates_figure(f"loader, {name}", rates[name], "the usual pipeline", rates["usual"]))


if __name__ == "__main__":
    main()
