"""Which images make up each batch, and in which order the batches come."""

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import torch
from torch.utils.data import Sampler

from miniclip.data.images import Windows
from miniclip.data.prefetch import Prefetcher
from miniclip.distributed import World
from miniclip.errors import SettingError

EPOCH_SEEDS = 1_000_003
"""Seeds of epochs lie so far apart for neighboring seeds of runs; a prime."""


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """The (epoch, index) pairs of all training batches, one epoch after another without a pause or an end.

    The order of an epoch is drawn from (seed, epoch); each image turns up at most once in it. The last
    incomplete batch is left out: the contrastive loss depends on the batch's size; so are batches that
    do not fill up the last step of `accumulate_steps`. Iteration can start at any image of any epoch,
    which is how a run goes on after an interruption, also with batches of another size or on another
    number of processes.

    Sizes and positions count the images of all processes; what is yielded is this process's share. Every
    process draws the same order, so that none has to tell the others.

    Args:
        num_images: of one epoch.
        batch_size: images per batch, of all processes.
        seed: of the order.
        accumulate_steps: batches per optimizer step.
        world: the processes that share each batch; None is this one alone.
        windows: what of the images is mixed at a time, so that few files are read at once; None mixes all.

    Raises:
        SettingError: when the processes cannot have equally many images of a batch.
    """

    def __init__(
        self,
        num_images: int,
        *,
        batch_size: int,
        seed: int,
        accumulate_steps: int = 1,
        world: World | None = None,
        windows: Windows | None = None,
    ):
        self.world = world or World()
        if batch_size % self.world.size != 0:
            raise SettingError(
                "trainer.batch_size",
                batch_size,
                f"must be a multiple of {self.world.size}: so many processes share each batch equally",
            )

        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.windows = windows
        self.images_per_step = batch_size * accumulate_steps
        self.first_epoch = 0
        self.first_position = 0
        fetch = None if windows is None else windows.fetch
        self.prefetcher = None if fetch is None else Prefetcher(fetch)

    def start_at(self, epoch: int, position: int) -> None:
        """Choose where the next iteration begins: behind the first `position` images of an epoch."""
        self.first_epoch = epoch
        self.first_position = position

    def steps_left(self, position: int = 0) -> int:
        """Whole optimizer steps that an epoch has left behind its first `position` images."""
        return max(0, self.num_images - position) // self.images_per_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        position = self.first_position
        for epoch in count(self.first_epoch):
            order = self._order(epoch)
            self._prefetch(epoch, order, position)
            # what does not fill up an optimizer step is left out
            end = position + self.steps_left(position) * self.images_per_step
            for start in range(position, end, self.batch_size):
                batch = order[start : start + self.batch_size]
                if start >= self._next_window:
                    self._prefetch(epoch, order, start)
                yield [(epoch, index) for index in self.world.share(batch)]

            position = 0  # only the first epoch is begun in its middle

    def close(self) -> None:
        """End the thread that fetches files, if there is one."""
        if self.prefetcher is not None:
            self.prefetcher.close()

    def _prefetch(self, epoch: int, order: Sequence[int], position: int) -> None:
        """Fetch the files of the window at a position, and of the next, perhaps the next epoch's first."""
        self._next_window = self.num_images
        if self.prefetcher is None or self.windows is None:
            return
        windows = files_by_window(order, self.windows)
        number = sum(start <= position for start, _ in windows) - 1
        if number + 1 < len(windows):
            self._next_window, following = windows[number + 1]
        else:
            _, following = files_by_window(self._order(epoch + 1), self.windows)[0]
        self.prefetcher.want([*windows[number][1], *following])

    def trained_on(self, num_batches: int) -> None:
        """Take note that so many of the batches were trained on; the epoch and the position say that."""

    def _order(self, epoch: int) -> Sequence[int]:
        """All images of an epoch, shuffled."""
        generator = torch.Generator().manual_seed(self.seed * EPOCH_SEEDS + epoch)
        if self.windows is None:
            return torch.randperm(self.num_images, generator=generator).tolist()
        return _mixed_in_windows(self.windows, generator)


def _mixed_in_windows(windows: Windows, generator: torch.Generator) -> list[int]:
    """All images: the files are shuffled, and the images of a few at a time."""
    files, file_of = np.unique(windows.file_of, return_inverse=True)
    place_of_file = torch.randperm(len(files), generator=generator).numpy()
    window_of = place_of_file[file_of] // windows.num_files  # (N,)

    # a stable sort leaves the images of a window mixed as all of them were
    mixed = torch.randperm(len(window_of), generator=generator).numpy()
    by_window = np.argsort(window_of[mixed], kind="stable")
    return mixed[by_window].tolist()


def files_by_window(order: Sequence[int], windows: Windows) -> list[tuple[int, list[int]]]:
    """Where each window of an epoch's order begins, and the files that it mixes."""
    # the images of a window come before all of the next, so that its files are seen first, too
    files, first_seen = np.unique(windows.file_of[np.asarray(order)], return_index=True)
    by_appearance = np.argsort(first_seen)
    return [
        (int(first_seen[chunk[0]]), files[chunk].tolist())
        for start in range(0, len(files), windows.num_files)
        for chunk in (by_appearance[start : start + windows.num_files],)
    ]


def sequential_batches(num_images: int, batch_size: int) -> list[list[int]]:
    """All images once, in order; the last batch is as small as it is."""
    return [
        list(range(start, min(start + batch_size, num_images)))
        for start in range(0, num_images, batch_size)
    ]
