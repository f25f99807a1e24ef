"""Which captions of a batch are right for which images, in memory linear in the batch."""

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ALL = slice(None)

SPREAD = 0x9E3779B97F4A7C1
"""An odd number, by which ids of images are taken far from each other."""


class PositivePairs(NamedTuple):
    """Pairs of a batch that are right: an image and the captions of it, and such as say the same.

    A table of them, (B, B), would be 4 GB at a batch of 65,536: it is made on demand and in parts.

    Attributes:
        image_ids: (B,) int64, equal where two rows are of one image.
        text_ids: (B,) int64, equal where two captions are.
    """

    image_ids: Tensor
    text_ids: Tensor

    @classmethod
    def of(cls, image_ids: Tensor, captions: Sequence[str]) -> "PositivePairs":
        """Those of images with one caption each; equal captions are so in every process."""
        return cls(image_ids, torch.tensor([_text_id(caption) for caption in captions], dtype=torch.int64))

    def table(self, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        """Which captions, `columns`, are right for which images, `rows`: (rows, columns) bool."""
        same_image = self.image_ids[rows, None] == self.image_ids[columns]
        same_text = self.text_ids[rows, None] == self.text_ids[columns]
        return same_image | same_text

    def each(self, function: Callable[[Tensor], Tensor]) -> "PositivePairs":
        """The same pairs on another device, or those of all processes."""
        return PositivePairs(function(self.image_ids), function(self.text_ids))

    def num_off_diagonal(self) -> int:
        """How many pairs are right beside each image and its own caption."""
        image_ids, text_ids = self.image_ids.tolist(), self.text_ids.tolist()
        both = zip(image_ids, text_ids, strict=True)
        return _num_equal(image_ids) + _num_equal(text_ids) - _num_equal(both) - len(image_ids)

    def count_off_diagonal(self) -> Tensor:
        """The same number, () int64 on the ids' device, which is not waited for."""
        # a pair of ids as one number: the ids of texts are digests, spread over all of int64
        both = self.image_ids * SPREAD + self.text_ids
        counts = _count_equal(self.image_ids) + _count_equal(self.text_ids) - _count_equal(both)
        return counts - len(self.image_ids)


def _count_equal(ids: Tensor) -> Tensor:
    """How many ordered pairs of ids (B,) are equal, each with itself among them, ()."""
    in_order = ids.sort().values
    return (torch.searchsorted(in_order, ids, right=True) - torch.searchsorted(in_order, ids)).sum()


def _num_equal(values: Iterable[Hashable]) -> int:
    """How many ordered pairs of values are equal, each with itself among them."""
    return sum(count**2 for count in Counter(values).values())


def _text_id(caption: str) -> int:
    digest = hashlib.blake2b(caption.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
