"""Parts of a data set before any transform: names, images and captions."""

import hashlib
import logging
import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from miniclip.data.images import ConcatImages, Images, ImageSubset
from miniclip.data.text_arrays import StringArray, StringListArray
from miniclip.errors import UserError, counted

log = logging.getLogger(__name__)

SEEDED_VAL = "seeded val"
"""Name of a validation part that nobody published."""

SEEDED_TEST = "seeded test"
"""Name of a test part that nobody published."""


class Split:
    """One part of a data set, before any transform: names, images and all captions of each image.

    Args:
        name: "train", or what a part that is measured on is called: "val", "seeded val", "test", "all".
        ids: a name for each image, unique within the data set.
        images: in the order of `ids`.
        captions: for each image its captions, at least one.
        labels: for each image the name of its class, where the data set has classes.

    Raises:
        UserError: when there are not as many ids, images, captions and labels, or captions are strings in
            place of lists: captions would be those of other images, or letters.
    """

    def __init__(
        self,
        name: str,
        ids: Iterable[str],
        images: Images,
        captions: Iterable[Iterable[str]],
        labels: Iterable[str] | None = None,
    ):
        self.name = name
        self.ids = StringArray.of(ids)
        self.images = images
        self.captions = StringListArray.of(captions)
        self.labels = None if labels is None else StringArray.of(labels)
        self._check()

    def _check(self) -> None:
        counts = {"ids": len(self.ids), "images": len(self.images), "lists of captions": len(self.captions)}
        if self.labels is not None:
            counts["labels"] = len(self.labels)
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{count:,} {what}" for what, count in counts.items())
            raise UserError(f"The {self.name} split has {listed}: it must have as many of each.")

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, name: str, rows: Sequence[int]) -> "Split":
        """Some of the images, under another name."""
        chosen = np.asarray(rows, dtype=np.int64)
        return Split(
            name,
            self.ids.select(chosen),
            ImageSubset(self.images, chosen),
            self.captions.select(chosen),
            None if self.labels is None else self.labels.select(chosen),
        )

    def set_apart(self, name: str, *, fraction: float, seed: int) -> tuple["Split", "Split"]:
        """The training images that are left, and a seeded fraction of the images under another name."""
        train, apart = seeded_rows(len(self), fraction=fraction, seed=seed)
        return self.select("train", train), self.select(name, apart)

    def with_images(self, images: Images) -> "Split":
        """The same split with its images read from elsewhere."""
        return Split(self.name, self.ids, images, self.captions, self.labels)

    def fingerprint(self) -> str:
        """A hash of image ids, captions and the split's name: equal data gives equal text."""
        # not of the pixels, so that it takes no time: ids and captions stand for them
        digest = hashlib.sha256(self.name.encode())
        for image_id, captions in zip(self.ids, self.captions, strict=True):
            digest.update(repr((image_id, tuple(captions))).encode())
        return digest.hexdigest()[:16]


class Parts(NamedTuple):
    """The parts of a data set.

    Attributes:
        train: what is trained on.
        val: what chooses the best checkpoint.
        test: what that checkpoint is measured on, once; None where there is no such part.
    """

    train: Split
    val: Split
    test: Split | None = None

    def present(self) -> list[Split]:
        """The parts that there are."""
        return [split for split in self if split is not None]


def concatenated(name: str, splits: Sequence[Split]) -> Split:
    """All images of several splits as one split; classes only where all of them have classes."""
    # some without classes would leave images without a label
    labels = None
    if all(split.labels is not None for split in splits):
        labels = [label for split in splits for label in split.labels or ()]

    return Split(
        name,
        [image_id for split in splits for image_id in split.ids],
        ConcatImages([split.images for split in splits]),
        [captions for split in splits for captions in split.captions],
        labels,
    )


def seeded_rows(count: int, *, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows that are left, and a seeded fraction of all rows, each in order."""
    rows = list(range(count))
    random.Random(seed).shuffle(rows)
    num_apart = round(count * fraction)
    return sorted(rows[num_apart:]), sorted(rows[:num_apart])


def labels_of(part: str, labels: Iterable[str]) -> StringArray | None:
    """The classes of a part's images; None, and a warning if some have one, where not all have."""
    labels = StringArray.of(labels)
    num_labeled = int((labels.ends > labels.starts).sum())
    if num_labeled == len(labels):
        return labels
    if num_labeled:
        total = counted(len(labels), "image")
        log.warning(
            "%s: %d of %s have a class, so that none is taken to have one.", part, num_labeled, total
        )
    return None
