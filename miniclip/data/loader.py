"""Batches: which images, in which order, read by whom."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from miniclip.data.dataset import CaptionedImages, Item
from miniclip.data.transforms import normalise
from miniclip.errors import UserError


class Batch(NamedTuple):
    """Images with one caption each.

    Attributes:
        images: (B, 3, H, W) in channels_last memory; uint8 from a worker, normalised after `read`.
        captions: B of them.
        places: (B,) int64, place of each image in its split.
        problems: why images could not be read for which others stand in.
    """

    images: Tensor
    captions: list[str]
    places: Tensor
    problems: list[str]

    def positives(self) -> Tensor:
        """Which captions are right for which images, (B, B) bool: those of one image, and equal ones."""
        numbers = {caption: number for number, caption in enumerate(self.captions)}
        texts = torch.tensor([numbers[caption] for caption in self.captions])
        return (self.places[:, None] == self.places) | (texts[:, None] == texts)


class _Items(Dataset[Item]):
    """A data set's items before they are normalised, which the device does a batch at a time."""

    def __init__(self, dataset: CaptionedImages):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        return self.dataset.item(key)


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """The (epoch, index) pairs of all training batches, one epoch after another without a pause.

    The order of an epoch is drawn from (seed, epoch); each image turns up at most once in it. The last
    incomplete batch is left out: the contrastive loss depends on the batch's size; so are batches that
    do not fill up the last update of `accumulate_steps`. Iteration can start at any batch of any epoch,
    which is how a run goes on after an interruption.
    """

    def __init__(
        self,
        num_images: int,
        *,
        batch_size: int,
        num_epochs: int,
        seed: int,
        accumulate_steps: int = 1,
    ):
        self.num_images = num_images
        self.batch_size = batch_size
        self.num_epochs = num_epochs
        self.seed = seed
        self.accumulate_steps = accumulate_steps
        self.first_epoch = 0
        self.first_batch = 0

    def start_at(self, epoch: int, batch: int) -> None:
        """Choose where the next iteration begins."""
        self.first_epoch = epoch
        self.first_batch = batch

    @property
    def batches_per_epoch(self) -> int:
        updates = self.num_images // (self.batch_size * self.accumulate_steps)
        return updates * self.accumulate_steps

    def __len__(self) -> int:
        return (self.num_epochs - self.first_epoch) * self.batches_per_epoch - self.first_batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first_batch = self.first_batch
        for epoch in range(self.first_epoch, self.num_epochs):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(self.num_images, generator=generator).tolist()
            for batch in range(first_batch, self.batches_per_epoch):
                indices = order[batch * self.batch_size : (batch + 1) * self.batch_size]
                yield [(epoch, index) for index in indices]
            first_batch = 0


def training_loader(
    dataset: CaptionedImages,
    batches: EpochBatches,
    *,
    num_workers: int,
    pin_memory: bool,
    worker_init: Callable[[int], None],
) -> DataLoader[Any]:
    """All batches in the order of `batches`. Uses no global randomness."""
    return DataLoader(
        _Items(dataset),
        batch_sampler=batches,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=worker_init,
        collate_fn=collate,
        generator=torch.Generator(),
    )


def evaluation_loader(
    dataset: CaptionedImages,
    *,
    batch_size: int,
    num_workers: int,
    pin_memory: bool,
    worker_init: Callable[[int], None],
) -> DataLoader[Any]:
    """All images in order, the last batch as small as it is. Uses no global randomness."""
    return DataLoader(
        _Items(dataset),
        batch_size=batch_size,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=worker_init,
        collate_fn=collate,
        generator=torch.Generator(),
    )


def read(loader: DataLoader[Any], device: torch.device) -> Iterator[Batch]:
    """The loader's batches on a device; an error of a worker reads like one of the main process."""
    try:
        for batch in loader:
            images = normalise(batch.images.to(device, non_blocking=True))
            yield batch._replace(images=images)
    except UserError as error:
        # torch puts the worker's traceback in front of the text
        raise UserError(str(error).rsplit("UserError: ", 1)[-1].strip()) from None


def collate(items: list[Item]) -> Batch:
    """Stack images in channels_last memory."""
    by_pixel = default_collate([item.pixels.permute(1, 2, 0) for item in items])
    return Batch(
        images=by_pixel.permute(0, 3, 1, 2),
        captions=[item.caption for item in items],
        places=torch.tensor([item.image for item in items]),
        problems=[item.problem for item in items if item.problem is not None],
    )
