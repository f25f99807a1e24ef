"""Batches: which images, in which order, read by whom."""

import math
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import count
from threading import Barrier, Lock
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from miniclip.data.batch import Batch, CollatedBatch, collate, positive_pairs
from miniclip.data.dataset import ImageTextDataset, Item
from miniclip.data.transforms import crop_and_resize_batch, normalize
from miniclip.errors import UserError
from miniclip.tokenizers import Tokenizer

T = TypeVar("T")


class _Items(Dataset[Item]):
    """A data set's items, neither cut nor normalised: that is done a batch at a time."""

    def __init__(self, dataset: ImageTextDataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        return self.dataset.item(key)


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """The (epoch, index) pairs of all training batches, one epoch after another without a pause or an end.

    The order of an epoch is drawn from (seed, epoch); each image turns up at most once in it. The last
    incomplete batch is left out: the contrastive loss depends on the batch's size; so are batches that
    do not fill up the last update of `accumulate_steps`. Iteration can start at any image of any epoch,
    which is how a run goes on after an interruption, also with batches of another size.
    """

    def __init__(
        self,
        num_images: int,
        *,
        batch_size: int,
        seed: int,
        accumulate_steps: int = 1,
    ):
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.images_per_update = batch_size * accumulate_steps
        self.first_epoch = 0
        self.first_position = 0

    def start_at(self, epoch: int, position: int) -> None:
        """Choose where the next iteration begins: behind the first `position` images of an epoch."""
        self.first_epoch = epoch
        self.first_position = position

    def updates_left(self, position: int = 0) -> int:
        """Whole updates that an epoch has left behind its first `position` images."""
        return max(0, self.num_images - position) // self.images_per_update

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        position = self.first_position
        for epoch in count(self.first_epoch):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(self.num_images, generator=generator).tolist()
            end = position + self.updates_left(position) * self.images_per_update
            for start in range(position, end, self.batch_size):
                yield [(epoch, index) for index in order[start : start + self.batch_size]]
            position = 0


class Loader:
    """Batches of a data set, on a device, one after another.

    Worker processes read and cut the pictures. Where the pictures are decoded already, workers are
    threads, which have nothing to hand over: they cut into memory that is used again and again. If the
    device is a GPU, decoded images travel whole and it cuts a batch at once. Captions are tokenized
    where a batch is finished, in a thread beside the main one.

    Args:
        dataset: where items come from.
        order: lists of keys of `dataset`, one list per batch.
        tokenizer: of the captions; None where only images are read.
        device: where the model reads.
        num_workers: how many read; 0 reads in between, when a batch is asked for.
        worker_init: runs first in each worker process, if there is something to run.
    """

    def __init__(
        self,
        dataset: ImageTextDataset,
        order: Iterable[list[Any]],
        *,
        device: torch.device,
        num_workers: int,
        tokenizer: Tokenizer | None = None,
        worker_init: Callable[[int], None] | None = None,
    ):
        self.dataset = dataset
        self.order = order
        self.tokenizer = tokenizer
        self.device = device
        self.num_workers = num_workers
        self._floats, self._pixels = BufferPool(torch.float32), BufferPool(torch.uint8)
        self._processes: DataLoader[Any] | None = None
        if num_workers > 0 and not dataset.is_decoded:
            self._processes = DataLoader(
                _Items(dataset),
                batch_sampler=order,
                num_workers=num_workers,
                persistent_workers=True,
                pin_memory=device.type == "cuda",
                worker_init_fn=worker_init,
                collate_fn=partial(collate, image_size=dataset.crop.image_size),
                generator=torch.Generator(),  # instead of the global one
            )

    def __iter__(self) -> Iterator[Batch]:
        try:
            if self.num_workers == 0:
                yield from map(self._read, self.order)
            elif self._processes is None:
                yield from _in_threads(self._read, self.order, num_threads=self.num_workers)
            else:
                yield from _in_threads(self._finish, self._processes, num_threads=1)
        except UserError as error:
            # torch puts the worker's traceback in front of the text
            raise UserError(str(error).rsplit(f"{type(error).__name__}: ", 1)[-1].strip()) from None

    def _read(self, keys: list[Any]) -> Batch:
        items = [self.dataset.item(key) for key in keys]
        travel_whole = self.device.type != "cpu" and self.dataset.is_decoded
        size = None if travel_whole else self.dataset.crop.image_size
        batch = collate(items, image_size=size, take=self._pixels.take)
        if self.device.type == "cuda":
            batch = batch._replace(images=batch.images.pin_memory())
        return self._finish(batch)

    def _finish(self, batch: CollatedBatch) -> Batch:
        """Complete a batch: cut, normalized, tokenized and on the device."""
        positives = positive_pairs(batch.image_ids, batch.captions)
        token_ids, attention_mask = self._tokenized(batch.captions)
        return Batch(
            images=self._normalized(batch),
            token_ids=self._on_device(token_ids),
            attention_mask=self._on_device(attention_mask),
            positives=self._on_device(positives),
            num_false_negatives=int(positives.sum()) - len(positives),
            image_ids=batch.image_ids,
            captions=batch.captions,
            problems=batch.problems,
        )

    def _normalized(self, batch: CollatedBatch) -> Tensor:
        """What the model sees of the images, (B, 3, H, W) float32 on the device."""
        pixels = self._on_device(batch.images)
        if batch.boxes is not None:
            boxes = self._on_device(batch.boxes)
            pixels = crop_and_resize_batch(pixels, boxes, self.dataset.crop.image_size)
        out = self._floats.take(pixels.shape) if self.device.type == "cpu" else None
        return normalize(pixels, out)

    def _tokenized(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids (B, L) int64 and attention mask (B, L) bool, on the host."""
        if self.tokenizer is None:
            nothing = torch.zeros(len(captions), 0, dtype=torch.int64)
            return nothing, nothing.bool()
        return self.tokenizer.encode(captions)

    def _on_device(self, part: Tensor) -> Tensor:
        return part.to(self.device, non_blocking=True)


def _in_threads(
    function: Callable[[T], Batch], inputs: Iterable[T], *, num_threads: int
) -> Iterator[Batch]:
    """`map`, a few batches ahead."""
    with _single_core_threads(num_threads) as threads:
        ahead: deque[Future[Batch]] = deque()
        try:
            for value in inputs:
                ahead.append(threads.submit(function, value))
                if len(ahead) > 2 * num_threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)


def _single_core_threads(count: int) -> ThreadPoolExecutor:
    """Threads without helpers of torch's, which wait in a busy loop and take the cores from the others."""
    own = torch.get_num_threads()
    started = Barrier(count)
    threads = ThreadPoolExecutor(count, "reader", initializer=partial(torch.set_num_threads, 1))
    list(threads.map(lambda _: started.wait(), range(count)))
    torch.set_num_threads(own)  # the number belongs to a thread, but is also that of threads to come
    return threads


class BufferPool:
    """Memory for batches, lent out again as soon as no tensor uses it: new memory is slow to write to."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._lent: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []
        self._lock = Lock()

    def take(self, shape: Sequence[int]) -> Tensor:
        """A tensor (B, C, H, W) in channels_last memory, with any content."""
        size = math.prod(shape) * self.dtype.itemsize
        with self._lock:
            self._lent = [(array, user) for array, user in self._lent if array.size == size]
            place = next((i for i, (_, user) in enumerate(self._lent) if user() is None), None)
            array = np.empty(size, np.uint8) if place is None else self._lent.pop(place)[0]
            view = array[:]  # held by torch as long as any tensor, saved for a backward pass say, needs it
            self._lent.append((array, weakref.ref(view)))
        batch, channels, height, width = shape
        flat = torch.from_numpy(view).view(self.dtype)
        return flat.view(batch, height, width, channels).permute(0, 3, 1, 2)


def sequential_batches(num_images: int, batch_size: int) -> list[list[int]]:
    """All images once, the last batch as small as it is."""
    return [
        list(range(start, min(start + batch_size, num_images)))
        for start in range(0, num_images, batch_size)
    ]
