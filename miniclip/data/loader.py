"""Batches of a data set on a device: who reads them, and where they are finished."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from multiprocessing import active_children, resource_tracker
from multiprocessing.util import Finalize
from threading import Barrier
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from miniclip.data.batch import Batch, CollatedBatch, collate, collate_boxes, collate_features
from miniclip.data.buffer_pool import BufferPool
from miniclip.data.dataset import ImageTextDataset, Item
from miniclip.data.device_images import DeviceImages, on_device
from miniclip.data.transforms import crop_and_resize_batch, normalize
from miniclip.errors import UserError
from miniclip.positives import PositivePairs
from miniclip.stop_signals import leave_to_main_process, signals_masked
from miniclip.tokenizers import Tokenizer

Input = TypeVar("Input")


class Loader:
    """Batches of a data set, on a device, one after another.

    Worker processes read the images and cut them. Images that are decoded already are read by threads,
    which have nothing to hand over: they cut into memory that is used again and again. If the device is a
    GPU, it cuts a whole batch of decoded images at once; they travel whole, or lie there already. Captions
    are tokenized where a batch is finished: with workers in a thread, so that a step does not wait for it.

    Args:
        dataset: where items come from.
        order: lists of keys of `dataset`, one list per batch.
        device: where the model reads.
        num_workers: how many read; 0 reads in between, when a batch is asked for.
        tokenizer: of the captions; None where only images are read.
        keeps_pixels: leave images as pixels, a quarter of the memory: they go through the model in parts,
            each normalized when its turn comes.
        resides: hold decoded images in a GPU's memory, where they take no more than a part of it.
    """

    def __init__(
        self,
        dataset: ImageTextDataset,
        order: Iterable[list[Any]],
        *,
        device: torch.device,
        num_workers: int,
        tokenizer: Tokenizer | None = None,
        keeps_pixels: bool = False,
        resides: bool = False,
    ):
        self.dataset = dataset
        self.order = order
        self.device = device
        self.num_workers = num_workers
        self.tokenizer = tokenizer
        self.keeps_pixels = keeps_pixels
        self._floats = BufferPool(torch.float32)
        self._pixels = BufferPool(torch.uint8)
        self._processes: DataLoader[Any] | None = None
        self._resident: DeviceImages | None = None
        if resides and device.type == "cuda" and dataset.is_decoded:
            self._resident = on_device(dataset.images, device)

        if num_workers > 0 and not dataset.is_decoded:
            _kill_workers_at_exit()
            self._processes = DataLoader(
                _Items(dataset),
                batch_sampler=order,
                num_workers=num_workers,
                persistent_workers=True,
                pin_memory=device.type == "cuda",
                worker_init_fn=leave_to_main_process,
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
                yield from _in_threads(self._finish, _started(self._processes), num_threads=1)
        except Exception as error:
            self.close()
            if not isinstance(error, UserError):
                raise
            # torch puts the worker's traceback in front of the text
            raise UserError(str(error).rsplit(f"{type(error).__name__}: ", 1)[-1].strip()) from None

    def close(self) -> None:
        """End the worker processes, if there are any; who reads again starts others.

        The collector of garbage may close the queue first through which they are told, and wait in vain.
        """
        iterator: Any = None if self._processes is None else self._processes._iterator
        if self._processes is not None and iterator is not None:
            iterator._shutdown_workers()
            self._processes._iterator = None

    def _read(self, keys: list[Any]) -> Batch:
        """A batch that no worker process has a part in."""
        items = [self.dataset.item(key) for key in keys]
        if self.dataset.holds_features:
            return self._finish(collate_features(items))

        if self._resident is not None:
            return self._finish(collate_boxes(items, self._resident.take([item.index for item in items])))

        # a GPU crops a whole batch faster than the CPU crops its images
        travel_whole = self.device.type != "cpu" and self.dataset.is_decoded
        size = None if travel_whole else self.dataset.crop.image_size

        batch = collate(items, image_size=size, take=self._pixels.take)
        if self.device.type == "cuda":
            batch = batch._replace(images=batch.images.pin_memory())
        return self._finish(batch)

    def _finish(self, batch: CollatedBatch) -> Batch:
        """Complete a batch: cut, normalized, tokenized and on the device."""
        positives = PositivePairs.of(batch.image_ids, batch.captions)
        token_ids, attention_mask = self._tokenized(batch.captions)

        return Batch(
            images=self._images(batch),
            token_ids=self._on_device(token_ids),
            attention_mask=self._on_device(attention_mask),
            positives=positives.each(self._on_device),
            num_false_negatives=positives.num_off_diagonal(),  # on the host: no GPU is waited for
            image_ids=batch.image_ids,
            captions=batch.captions,
            problems=batch.problems,
        )

    def _images(self, batch: CollatedBatch) -> Tensor:
        """The images as `Batch` holds them, cut, on the device; features as they are."""
        pixels = self._on_device(batch.images)
        if self.dataset.holds_features:
            return pixels
        if batch.boxes is not None:
            boxes = self._on_device(batch.boxes)
            pixels = crop_and_resize_batch(pixels, boxes, self.dataset.crop.image_size)
        if self.keeps_pixels:
            return pixels.to(torch.uint8)  # those that a GPU cuts are whole numbers
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


class _Items(Dataset[Item]):
    """Items of a data set, neither cut nor normalized: that is done for a whole batch."""

    def __init__(self, dataset: ImageTextDataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        return self.dataset.item(key)


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of worker processes, which begin with signals blocked: see `leave_to_main_process`.

    One to the process group would end those that still import torch, as they do where they are not forked.
    """
    if multiprocessing.get_start_method() != "fork":
        resource_tracker.ensure_running()  # whose own start would unblock them
    with signals_masked(blocked=True):
        return iter(loader)


@cache
def _kill_workers_at_exit() -> None:
    """Have workers that are still there at the end of this process killed, which waits for them.

    It would terminate them only, and they ignore that: see `leave_to_main_process`.
    """
    Finalize(None, _kill_workers, exitpriority=0)


def _kill_workers() -> None:
    if hasattr(signal, "SIGCHLD"):  # torch raises an error on it when a worker is killed
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in active_children():
        if process.daemon:
            process.kill()


def _in_threads(
    function: Callable[[Input], Batch], inputs: Iterable[Input], *, num_threads: int
) -> Iterator[Batch]:
    """`map`, a few batches ahead."""
    with _single_core_threads(num_threads) as threads:
        ahead: deque[Future[Batch]] = deque()
        try:
            for value in inputs:
                ahead.append(threads.submit(function, value))
                # one batch per thread is made, and one waits
                if len(ahead) > 2 * num_threads:
                    yield ahead.popleft().result()

            while ahead:
                yield ahead.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)


def _single_core_threads(count: int) -> ThreadPoolExecutor:
    """Threads without helpers of torch's, which wait in a busy loop and take the cores from the others."""
    num_torch_threads = torch.get_num_threads()
    started = Barrier(count)
    threads = ThreadPoolExecutor(count, "reader", initializer=partial(torch.set_num_threads, 1))

    # a task each that waits for the others, so that all threads start and set their number now
    list(threads.map(lambda _: started.wait(), range(count)))

    # the number belongs to a thread, but is also that of threads to come
    torch.set_num_threads(num_torch_threads)
    return threads
