"""Images that are read as they come, from a set too large to fetch, and the batches they make up."""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from miniclip.data.dataset import CaptionChoice, ImageTextDataset, Item
from miniclip.data.image_content import decode
from miniclip.data.images import Images
from miniclip.data.sampler import EpochBatches
from miniclip.data.split import Split
from miniclip.data.transforms import Crop
from miniclip.distributed import World
from miniclip.errors import BrokenImage, UserError, counted

log = logging.getLogger(__name__)


class StreamedRow(NamedTuple):
    """An image that is not decoded yet, with its captions.

    Attributes:
        content: of the image's file.
        captions: at least one.
        name: how errors call it.
    """

    content: bytes
    captions: Sequence[str]
    name: str


class Position(NamedTuple):
    """Where a process stands in its part of a stream.

    Attributes:
        pass_number: how often all rows have passed, each time in another order.
        state: how far the reader has come, as plain data; None is the beginning.
    """

    pass_number: int = 0
    state: dict[str, Any] | None = None


class Stream(Protocol):
    """Rows that can only be read one after another."""

    def divides_files(self, size: int) -> bool:
        """Whether so many processes read files of their own, and not rows of the same ones."""

    def rows(self, world: World, start: Position) -> Iterator[tuple[StreamedRow, Position]]:
        """This process's part of the rows, pass after pass without an end; behind each stands a position.

        Raises:
            UserError: when it has no rows, or they cannot be read any more.
        """


class StreamKey(NamedTuple):
    """What `StreamedDataset` makes an item of: a row of a batch, which travels whole.

    Attributes:
        epoch: number of the epoch.
        indices: of the batch's rows, places in the epoch.
        rows: of the batch; those behind its own stand in for one that cannot be read.
        own: which of them it is.
    """

    epoch: int
    indices: Sequence[int]
    rows: Sequence[StreamedRow]
    own: int


class PassingImages(Images):
    """Images of a stream, of which none can be read by its place."""

    def __init__(self, num_images: int):
        self.num_images = num_images

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> Tensor:
        raise UserError("Images that are streamed cannot be read again. Fetch them: data.streaming=false.")


class StreamedDataset(ImageTextDataset):
    """Images that are trained on as they come. An epoch is a number of images.

    Args:
        split: names and captions of the first rows, which stand for all: a tokenizer learns from them, and
            their fingerprint is that of the data.
        crop, seed, captions, max_broken_fraction: see `ImageTextDataset`.
        stream: the rows.
        images_per_epoch: how many count as an epoch.
        decode_size: shortest side that an image may be decoded at, pixels.
    """

    is_streamed = True

    def __init__(
        self,
        split: Split,
        crop: Crop,
        *,
        stream: Stream,
        images_per_epoch: int,
        decode_size: int,
        seed: int,
        captions: CaptionChoice,
        max_broken_fraction: float | None,
    ):
        super().__init__(split, crop, seed=seed, captions=captions, max_broken_fraction=max_broken_fraction)
        self.stream = stream
        self.images_per_epoch = images_per_epoch
        self.decode_size = decode_size
        self._positions: list[Position] = []

    @property
    def num_images(self) -> int:
        return self.images_per_epoch

    def __len__(self) -> int:
        return self.images_per_epoch

    def names(self, image_ids: Tensor) -> list[str]:
        """Their places in the epoch: a stream's images have no other names."""
        return [f"streamed image {place} of the epoch" for place in image_ids.tolist()]

    def batches(
        self, *, batch_size: int, seed: int, accumulate_steps: int, world: World
    ) -> "StreamBatches":
        return StreamBatches(
            self, batch_size=batch_size, seed=seed, accumulate_steps=accumulate_steps, world=world
        )

    def item(self, key: Any) -> Item:
        """The item of a `StreamKey`.

        Raises:
            UserError: when its image cannot be read and none may stand in.
        """
        assert isinstance(key, StreamKey), "a stream has no places"
        problem = None
        for ahead in range(len(key.rows)):
            place = (key.own + ahead) % len(key.rows)
            try:
                return self._decoded(key.epoch, key.indices[place], key.rows[place], problem)
            except BrokenImage as error:
                if self.max_broken_fraction is None:
                    raise
                problem = problem or error
        raise UserError(f"None of {counted(len(key.rows), 'streamed image')} in a row can be read.")

    def _decoded(self, epoch: int, index: int, row: StreamedRow, problem: BrokenImage | None) -> Item:
        caption, generator = self._caption_of(row.captions, epoch, index)
        image = decode(row.content, row.name, decode_size=self.decode_size)
        height, width = image.shape[1:]
        return Item(image, self.crop.box(height, width, generator), caption, index, problem)

    def position(self, world: World) -> Position:
        """Where this process begins: at its part's beginning, or where a checkpoint left it."""
        if len(self._positions) == world.size:
            # who divides the rows of the same files must begin at the same one
            return self._positions[world.rank if self.stream.divides_files(world.size) else 0]
        if not self._positions:
            return Position()
        log.info(
            "The stream was divided among %d, and is now among %d: a new pass over it begins.",
            len(self._positions),
            world.size,
        )
        return Position(1 + max(position.pass_number for position in self._positions))

    def move_to(self, positions: Sequence[Position]) -> None:
        """Take note of where each process stands behind the images that were trained on."""
        self._positions = list(positions)

    def state_dict(self) -> dict[str, Any]:
        """Where each process stands, as plain data."""
        return {"positions": [list(position) for position in self._positions]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where another run stood; what its shuffle buffers held comes in the next pass only."""
        self._positions = [Position(*position) for position in state["positions"]]
        log.warning("The order of a stream is not exact after a resume.")


class StreamBatches(EpochBatches):
    """Batches of a stream's rows, in the order in which these come.

    Args:
        dataset: what is read.
        batch_size, seed, accumulate_steps, world: see `EpochBatches`.
    """

    def __init__(
        self, dataset: StreamedDataset, *, batch_size: int, seed: int, accumulate_steps: int, world: World
    ):
        super().__init__(
            len(dataset),
            batch_size=batch_size,
            seed=seed,
            accumulate_steps=accumulate_steps,
            world=world,
        )
        self.dataset = dataset
        self._positions_ahead: deque[Position] = deque()

    def __iter__(self) -> Iterator[list[Any]]:
        rows = self.dataset.stream.rows(self.world, self.dataset.position(self.world))
        for places in super().__iter__():
            taken = list(islice(rows, len(places)))
            self._positions_ahead.append(taken[-1][1])

            epoch = places[0][0]
            indices = [index for _, index in places]
            # one list for all keys, which is handed to a worker once
            batch = [row for row, _ in taken]
            yield [StreamKey(epoch, indices, batch, own) for own in range(len(batch))]

    def trained_on(self, num_batches: int) -> None:
        for _ in range(num_batches):
            position = self._positions_ahead.popleft()
        self.dataset.move_to(self.world.of_all(position))

    def _order(self, epoch: int) -> Sequence[int]:
        """As they come: the stream itself is shuffled."""
        return range(self.num_images)
