"""Sets of the hub as streams: rows that are read as they come, and the first ones, which are kept."""

import hashlib
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from miniclip.data.sources.caption_cells import captions_of_row, shortened
from miniclip.data.sources.class_names import with_class_names
from miniclip.data.sources.columns import ColumnNames, find_columns
from miniclip.data.sources.encoded_images import EncodedImages
from miniclip.data.sources.rows import Rows, whole_splits
from miniclip.data.sources.walk import lies_within
from miniclip.data.split import Split
from miniclip.data.streamed import PassingImages, Position, StreamedRow
from miniclip.distributed import World
from miniclip.errors import (
    SettingError,
    UserError,
    above_zero,
    at_least,
    counted,
    first_line,
    without_secrets,
)

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)

ORDER = "streamed, order not exact after a resume"
"""Stands in the names of parts that are measured, and so in every result."""


class Streaming(NamedTuple):
    """How a set is streamed.

    Attributes:
        images_per_epoch: how many count as an epoch; None takes as many as the set says it has rows.
        shuffle_buffer: images that lie in memory, of which the next one is drawn.
        val_images: first rows of the part that validates, and of the test part, which are kept to be
            measured on.
        vocabulary_rows: first rows of the training part, from whose captions a tokenizer learns.
    """

    images_per_epoch: int | None
    shuffle_buffer: int
    val_images: int
    vocabulary_rows: int

    def check(self) -> None:
        """Hold the numbers against their ranges.

        Raises:
            SettingError: names the first that is out of range.
        """
        if self.images_per_epoch is not None:
            above_zero("images_per_epoch", self.images_per_epoch)
        at_least("shuffle_buffer", self.shuffle_buffer, 2)
        at_least("val_images", self.val_images, 1)
        at_least("vocabulary_rows", self.vocabulary_rows, 1)


class StreamedPart:
    """One part of a set of the hub, whose rows are read one after another.

    Args:
        rows: as `datasets` streams them.
        hub: the set's name, or the folder of a copy.
        given: what the user calls the columns.

    Raises:
        UserError: when it has no rows, or a column is not there.
    """

    def __init__(self, rows: "datasets.IterableDataset", *, hub: str, given: ColumnNames):
        import datasets

        self.hub = hub
        self.name = str(rows.split)
        names = rows.column_names or list(next(iter(rows), {}))
        if not names:
            raise UserError(f"{hub}: the part {self.name} has no rows.")

        self.columns = find_columns(names, given, source=hub, has_objects=True)
        if self.columns.split is not None:
            allowed = "divides no set that is streamed; null trains on all of its rows"
            raise SettingError("split_column", self.columns.split, allowed)
        self.features = {} if rows.features is None else rows.features.to_dict()
        if isinstance((rows.features or {}).get(self.columns.image), datasets.Image):
            rows = rows.cast_column(self.columns.image, datasets.Image(decode=False))
        self.rows = rows.select_columns([self.columns.image, *self.columns.captions])

    def num_rows(self) -> int | None:
        """How many rows the set says that it has."""
        parts = self.rows.info.splits or {}
        return parts[self.name].num_examples if self.name in parts else None

    def usable(self, rows: "datasets.IterableDataset") -> Iterator[StreamedRow]:
        """Its rows, or some of them, that have an image and a caption; the first of the others is told.

        Raises:
            UserError: when they cannot be read.
        """
        num_others = 0
        for number, cells in enumerate(self._told(rows)):
            name = f"{self.name} row {number}"
            row = self._row(cells, name)
            if row is not None:
                yield row
            elif (num_others := num_others + 1) == 1:
                log.warning("%s: rows without an image or a caption are passed over: %s.", self.hub, name)

    def _told(self, rows: "datasets.IterableDataset") -> Iterator[Mapping[str, Any]]:
        try:
            yield from rows
        except Exception as error:  # what the packages below raise has no common type
            reason = without_secrets(first_line(error))
            raise UserError(
                f"data.hub={self.hub} cannot be streamed on: {reason.rstrip('.')}. Check the connection, "
                "and go on with trainer.resume=auto."
            ) from None

    def _row(self, cells: Mapping[str, Any], name: str) -> StreamedRow | None:
        content = self._content(cells[self.columns.image], name)
        texts = {
            column: with_class_names(cells[column], self.features.get(column), f"{self.hub}, {name}")
            for column in self.columns.captions
        }
        captions = [
            text for text in captions_of_row(texts, self.columns.field, source=self.hub, row=name) if text
        ]
        if not content or not captions:
            return None
        # of a shuffled row nobody knows its number in the set
        return StreamedRow(content, captions, f"streamed with the caption {shortened(captions[0])}")

    def _content(self, cell: Any, name: str) -> bytes | None:
        """The file of an image, out of a cell with its bytes or its path."""
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, Mapping) else (cell, None)
        if isinstance(content, str):
            content, path = None, content
        return self._file(path, name) if content is None and path else content

    def _file(self, path: str, name: str) -> bytes | None:
        """The content of a file of the set.

        Raises:
            UserError: when the path leads out of it.
        """
        from datasets.utils.file_utils import xopen

        outer = path.rpartition("::")[2]  # of a file in an archive, that of the archive
        is_remote = outer.startswith((f"hf://datasets/{self.hub}@", f"hf://datasets/{self.hub}/"))
        if not is_remote:
            path = path if os.path.isabs(outer) else os.path.join(self.hub, path)
            if not lies_within(os.path.realpath(self.hub), path.rpartition("::")[2]):
                raise UserError(
                    f"{self.hub}, {name}: the image {shortened(path)} lies outside the set: it stays closed"
                )
        try:
            with xopen(path, "rb") as file:
                content: bytes = file.read()
        except FileNotFoundError:
            return None
        return content


class HubStream:
    """The training rows of a streamed set, without those whose images are measured on.

    Args:
        part: where they come from.
        measured: digests of images that are passed over.
        shuffle_buffer: see `Streaming`.
        seed: of the order.
    """

    def __init__(self, part: StreamedPart, *, measured: Collection[bytes], shuffle_buffer: int, seed: int):
        self.part = part
        self.measured = frozenset(measured)
        self.rows_in_order = part.rows.shuffle(seed=seed, buffer_size=shuffle_buffer)

    def divides_files(self, size: int) -> bool:
        return self.rows_in_order.num_shards % size == 0

    def rows(self, world: World, start: Position) -> Iterator[tuple[StreamedRow, Position]]:
        """See `Stream`: files are divided among the processes; where they are too few, rows."""
        from datasets.distributed import split_dataset_by_node

        number, state = start
        while True:
            rows = split_dataset_by_node(self.rows_in_order, world.rank, world.size)
            rows.set_epoch(number)
            if state is not None:
                rows.load_state_dict(state)

            is_empty = True
            for row in self.part.usable(rows):
                if digest(row.content) not in self.measured:
                    is_empty = False
                    yield row, Position(number, rows.state_dict())
            if is_empty and state is None:
                raise UserError(
                    f"data.hub={self.part.hub}: process {world.rank} of {world.size} gets no row of the "
                    f"part {self.part.name} to train on. Take fewer processes or data.val_images, or "
                    "data.streaming=false."
                )
            number, state = number + 1, None


class StreamedSplits(NamedTuple):
    """The parts of a streamed set.

    Attributes:
        train: captions of its first rows, which stand for all.
        stream: what trains.
        images_per_epoch: of the stream.
        measured: the part that validates and, where there is one, the test part.
    """

    train: Split
    stream: HubStream
    images_per_epoch: int
    measured: list[Split]


def streamed_splits(
    parts: Mapping[str, StreamedPart], settings: Streaming, *, seed: int, decode_size: int, merges: bool
) -> StreamedSplits:
    """Read the first rows of each part; see `Streaming`.

    Args:
        parts: "train" and, where there are such, "val" and "test".
        merges: see `merge_equal_images` of `Hub`.

    Raises:
        UserError: when a part has no rows for what they are needed for.
    """
    images_per_epoch = epoch_of(parts["train"], settings)
    first = parts["train"].usable(parts["train"].rows)
    of_val = first if "val" not in parts else parts["val"].usable(parts["val"].rows)

    # the name of each part that is measured tells where its rows come from
    measured = {"val" if "val" in parts else "first rows": list(islice(of_val, settings.val_images))}
    if "test" in parts:
        of_test = parts["test"].usable(parts["test"].rows)
        measured["test"] = list(islice(of_test, settings.val_images))

    train = list(islice(first, settings.vocabulary_rows))
    if not train:
        allowed = "leaves no row of the training part to train on"
        raise SettingError("val_images", settings.val_images, allowed)
    return StreamedSplits(
        _training_split(train),
        HubStream(
            parts["train"],
            measured=[digest(row.content) for rows in measured.values() for row in rows],
            shuffle_buffer=settings.shuffle_buffer,
            seed=seed,
        ),
        images_per_epoch,
        [_measured_split(name, rows, decode_size, merges) for name, rows in measured.items()],
    )


def _training_split(rows: list[StreamedRow]) -> Split:
    """The names and captions of rows; see `StreamedDataset`."""
    names = [row.name for row in rows]
    return Split("train", names, PassingImages(len(rows)), [row.captions for row in rows])


def _measured_split(name: str, rows: list[StreamedRow], decode_size: int, merges: bool) -> Split:
    """Rows with their images as a part that is measured on."""
    encoded = EncodedImages([row.content for row in rows], [None] * len(rows))
    table = Rows(
        f"The part {name}",
        [row.name for row in rows],
        encoded,
        [row.captions for row in rows],
        labels=None,
        words=None,
        merges=merges,
    )
    (split,) = whole_splits({f"{name} ({ORDER})": table}, decode_size=decode_size)
    return split


def digest(content: bytes) -> bytes:
    """What tells one image file from another."""
    return hashlib.blake2b(content, digest_size=16).digest()


def epoch_of(part: StreamedPart, settings: Streaming) -> int:
    """Images that count as an epoch.

    Raises:
        SettingError: when neither the user nor the set says how many.
    """
    known = settings.images_per_epoch or part.num_rows()
    if known is None:
        allowed = (
            f"must be a number: {part.hub} does not say how many rows it has. An epoch is so many images, "
            "and trainer.budget.epochs, the schedule and the validations count by it"
        )
        raise SettingError("images_per_epoch", None, allowed)
    log.info("An epoch of the stream is %s.", counted(known, "image"))
    return known
