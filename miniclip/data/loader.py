"""Batches: which images, in which order, read by whom."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from miniclip.data.dataset import CaptionedImages
from miniclip.data.transforms import normalise
from miniclip.errors import UserError

Batch = tuple[Tensor, list[str]]
"""normalised images (B, 3, H, W) in channels_last memory, and one caption of each."""


class _Pixels(Dataset[tuple[Tensor, str]]):
    """A data set's items before they are normalised, which the device does a batch at a time."""

    def __init__(self, dataset: CaptionedImages):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, str]:
        return self.dataset.pixels(key)


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
        _Pixels(dataset),
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
        _Pixels(dataset),
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
        for pixels, captions in loader:
            yield normalise(pixels.to(device, non_blocking=True)), captions
    except UserError as error:
        # torch puts the worker's traceback in front of the text
        raise UserError(str(error).rsplit("UserError: ", 1)[-1].strip()) from None


def collate(items: list[tuple[Tensor, str]]) -> tuple[Tensor, list[str]]:
    """Stack images in channels_last memory."""
    images, captions = zip(*items, strict=True)
    by_pixel = default_collate([image.permute(1, 2, 0) for image in images])
    return by_pixel.permute(0, 3, 1, 2), list(captions)
