"""Images with one caption each, read in any order: what loaders and evaluation ask for."""

import hashlib
import logging
import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, SupportsIndex

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from miniclip.data.image_content import evaluated_size
from miniclip.data.images import Images, ImageSubset, Windows
from miniclip.data.sampler import EpochBatches
from miniclip.data.split import Split
from miniclip.data.transforms import Box, Crop, crop_and_resize, normalize
from miniclip.distributed import World
from miniclip.errors import BrokenImage, UserError, counted

log = logging.getLogger(__name__)

CaptionChoice = Literal["first", "random", "all"]

Key = SupportsIndex
"""A place in a data set: int, a whole number of NumPy, or a tensor of one."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image with one of its captions.

    Attributes:
        image: (3, H, W) uint8, all of it; of a `FeatureDataset` what a tower made of it, (width,) float32.
        box: the part that the model sees.
        caption: as it was written.
        index: place of the image in the split.
        problem: why another image had to stand in, else None.
    """

    image: Tensor
    box: Box
    caption: str
    index: int
    problem: BrokenImage | None = None


class ImageTextDataset(Dataset[tuple[Tensor, str]]):
    """A split ready for a model. An item is one image with one of its captions.

    `dataset[i]` gives `(image_tensor, raw_caption)`, and `dataset[epoch, i]` the same item of another
    epoch. Whatever the crop draws, and with `captions="random"` the caption, follow from (seed, epoch,
    index) alone, so that they do not depend on workers, order or resuming.

    Args:
        split: images and captions.
        crop: chooses the part of an image that the model sees.
        seed: of crops and captions.
        captions: "first" of each image, a "random" one each time, or "all", where each caption is an
            item of its own.
        max_broken_fraction: let the next image stand in for one that cannot be read, as long as no more
            than this fraction of the images is broken (whoever reads the batches counts); None raises.
        images: where pixels are read, a cache of the split's own say; None reads the split's own.
    """

    def __init__(
        self,
        split: Split,
        crop: Crop,
        *,
        seed: int = 0,
        captions: CaptionChoice = "first",
        max_broken_fraction: float | None = None,
        images: Images | None = None,
    ):
        self.split = split
        self.images = split.images if images is None else images
        self.crop = crop
        self.seed = seed
        self.captions = captions
        self.max_broken_fraction = max_broken_fraction
        counts = split.captions.counts if captions == "all" else np.ones(len(split), dtype=np.int64)
        self._first_item = np.concatenate([[0], np.cumsum(counts)])

    @classmethod
    def for_evaluation(cls, split: Split, crop: Crop) -> "ImageTextDataset":
        """A split as evaluation sees it: its pixels do not depend on how it, or another, is trained on."""
        images = split.images.decoded_at(evaluated_size(crop.image_size))
        return cls(split.with_images(images), crop)

    holds_features: ClassVar[bool] = False
    """Whether an item holds a tower's features in place of an image; see `FeatureDataset`."""

    is_streamed: ClassVar[bool] = False
    """Whether images pass once and cannot be read by their places; see `StreamedDataset`."""

    @property
    def num_images(self) -> int:
        """Images of an epoch, whichever of their captions it holds."""
        return len(self.split)

    def names(self, image_ids: Tensor) -> list[str]:
        """Names of images by their places in the split, (B,) int64."""
        return [self.split.ids[place] for place in image_ids.tolist()]

    def batches(self, *, batch_size: int, seed: int, accumulate_steps: int, world: World) -> EpochBatches:
        """The order in which a run reads it; see `EpochBatches`."""
        return EpochBatches(
            len(self),
            batch_size=batch_size,
            seed=seed,
            accumulate_steps=accumulate_steps,
            world=world,
            windows=self.windows,
        )

    @property
    def is_decoded(self) -> bool:
        """Whether the pixels lie in memory, or on disk as they will in memory."""
        return self.images.is_decoded

    @property
    def windows(self) -> Windows | None:
        """What of the items an epoch mixes at a time; None where it mixes all."""
        windows = self.split.images.windows
        if windows is None:
            return None
        return windows._replace(file_of=np.repeat(windows.file_of, np.diff(self._first_item)))

    def __len__(self) -> int:
        return int(self._first_item[-1])

    def __getitem__(self, key: Key | tuple[int, Key]) -> tuple[Tensor, str]:
        item = self.item(key)
        pixels = crop_and_resize(item.image, item.box, self.crop.image_size)
        return normalize(pixels[None])[0], item.caption

    def item(self, key: Key | tuple[int, Key]) -> Item:
        """What `dataset[key]` is made of.

        Raises:
            IndexError: beyond the end, which is what ends an iteration.
            UserError: when the image cannot be read and none may stand in.
        """
        epoch, place = key if isinstance(key, tuple) else (0, key)
        index = operator.index(place)
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")

        # the next images stand in, so that a run reads the same whatever its workers
        problem = None
        for stand_in in range(len(self)):
            try:
                return self._read(epoch, (index + stand_in) % len(self), problem)
            except BrokenImage as error:
                if self.max_broken_fraction is None:
                    raise
                problem = problem or error
        count = counted(len(self), "image")
        raise UserError(f"None of {count} of the {self.split.name} split can be read.")

    def _read(self, epoch: int, index: int, problem: BrokenImage | None) -> Item:
        """The item of one epoch, which stands in for another if there is a `problem`."""
        row, caption, generator = self._choose(epoch, index)
        image = self.images[row]
        height, width = image.shape[1:]
        box = self.crop.box(height, width, generator)
        return Item(image, box, caption, row, problem)

    def _choose(self, epoch: int, index: int) -> tuple[int, str, torch.Generator]:
        """The row of an item, its caption, and the generator that its crop is drawn with."""
        row, choice = index, 0
        if self.captions == "all":
            row = int(np.searchsorted(self._first_item, index, side="right")) - 1
            choice = index - int(self._first_item[row])
        caption, generator = self._caption_of(self.split.captions[row], epoch, index, choice)
        return row, caption, generator

    def _caption_of(
        self, captions: Sequence[str], epoch: int, index: int, choice: int = 0
    ) -> tuple[str, torch.Generator]:
        """The chosen one of an item's captions, or a random one, and the generator of its crop."""
        # the caption is drawn whether it is used or not, so that crops do not depend on that setting
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch, index))
        drawn = int(torch.randint(len(captions), (), generator=generator))
        return captions[drawn if self.captions == "random" else choice], generator


class TrainingSets(NamedTuple):
    """What a run needs: images to train on, to choose its best checkpoint by, and to measure that on."""

    train: ImageTextDataset
    val: ImageTextDataset
    test: ImageTextDataset | None = None


def without_broken(dataset: ImageTextDataset, *, max_broken_fraction: float) -> ImageTextDataset:
    """A data set for evaluation without images that cannot be read: in a ranking none can stand in.

    Raises:
        UserError: when more than this fraction of the images cannot be read, or none can.
    """
    split = dataset.split
    readable: list[int] = []
    reasons: list[str] = []
    for index in range(len(split)):
        try:
            _ = dataset.images[index]  # decoded, since a file can be broken anywhere
            readable.append(index)
        except BrokenImage as error:
            log.warning("Left out of the %s split: %s", split.name, error)
            reasons.append(error.reason)

    if reasons and not readable:
        raise UserError(
            f"None of the {counted(len(split), 'image')} of the {split.name} split can be read "
            f"({by_reason(reasons)}). Fix the files above."
        )
    if len(reasons) > max_broken_fraction * len(split):
        raise UserError(
            f"{len(reasons):,} of {counted(len(split), 'image')} of the {split.name} split cannot be "
            f"read ({by_reason(reasons)}), more than "
            f"data.max_broken_fraction={max_broken_fraction:g}. Fix the files above."
        )
    images = ImageSubset(dataset.images, np.asarray(readable, dtype=np.int64))
    return ImageTextDataset(split.select(split.name, readable), dataset.crop, images=images)


def by_reason(reasons: Iterable[str]) -> str:
    """How many of each: "2 missing, 1 broken"."""
    return ", ".join(f"{count:,} {reason}" for reason, count in Counter(reasons).most_common())


def _mix(seed: int, epoch: int, index: int) -> int:
    """One 63-bit seed from three numbers; near inputs give unrelated outputs."""
    digest = hashlib.blake2b(f"{seed} {epoch} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
