"""Batches: which images, in which order, read by whom."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate

from miniclip.data.dataset import CaptionedImages
from miniclip.errors import UserError

Batch = tuple[Tensor, list[str]]
"""images (B, 3, H, W) in channels_last memory, and one caption of each."""


class EpochBatches(Sampler[list[int]]):
    """Batches of one epoch in an order drawn from (seed, epoch), each image at most once.

    The last incomplete batch is left out: the contrastive loss depends on the batch's size. Within an
    epoch the batches can start anywhere, which is how a run goes on after an interruption.
    """

    def __init__(self, num_images: int, *, batch_size: int, seed: int):
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.first_batch = 0

    def start(self, epoch: int, *, first_batch: int = 0) -> None:
        """Choose what the next iteration gives."""
        self.epoch = epoch
        self.first_batch = first_batch

    @property
    def batches_per_epoch(self) -> int:
        return self.num_images // self.batch_size

    def __len__(self) -> int:
        return self.batches_per_epoch - self.first_batch

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.num_images, generator=generator).tolist()
        for batch in range(self.first_batch, self.batches_per_epoch):
            yield order[batch * self.batch_size : (batch + 1) * self.batch_size]


def training_loader(
    dataset: CaptionedImages,
    batches: EpochBatches,
    *,
    num_workers: int,
    pin_memory: bool,
    worker_init: Callable[[int], None],
) -> DataLoader[Any]:
    """Batches in the order of `batches`. Uses no global randomness."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
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
        dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=worker_init,
        collate_fn=collate,
        generator=torch.Generator(),
    )


def read(loader: DataLoader[Any]) -> Iterator[Batch]:
    """The loader's batches; an error of a worker reads like one of the main process."""
    try:
        yield from loader
    except UserError as error:
        # torch puts the worker's traceback in front of the text
        raise UserError(str(error).rsplit("UserError: ", 1)[-1].strip()) from None


def collate(items: list[tuple[Tensor, str]]) -> Batch:
    images, captions = zip(*items, strict=True)
    return default_collate(list(images)).contiguous(memory_format=torch.channels_last), list(captions)
