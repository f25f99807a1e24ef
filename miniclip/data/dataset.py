"""Images with their captions: what every data source delivers and what the training loop reads."""

import copy
import hashlib
import logging
import math
import operator
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, SupportsIndex

import numpy as np
import platformdirs
import torch
from torch import Tensor
from torch.utils.data import Dataset

from miniclip.data.text_arrays import StringArray, StringListArray
from miniclip.data.transforms import (
    Box,
    CenterCrop,
    Crop,
    RandomResizedCrop,
    RandomSquareCrop,
    SquashResize,
    cut,
    normalize,
)
from miniclip.errors import BrokenImage, SettingError, UserError, counted

log = logging.getLogger(__name__)

CaptionChoice = Literal["first", "random", "all"]

Key = SupportsIndex
"""A place in a data set: int, a whole number of NumPy, or a tensor of one."""

EVALUATED_SCALE = 0.5
"""Images that evaluation sees are decoded for crops of at least this share of their area. It is a constant,
so that no setting of training, nor a cache, changes what is measured."""

SEEDED_TEST = "seeded test"
"""Name of a test part that nobody published."""


class Images(Protocol):
    """A sequence of pictures (3, H, W) uint8 that are read one at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor: ...


class ImageSubset:
    """Some of the pictures of a sequence."""

    def __init__(self, images: Images, chosen: np.ndarray):
        self.images = images
        self.chosen = chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[int(self.chosen[index])]

    @property
    def identity(self) -> tuple[Any, bytes]:
        """What identifies the pictures, and which of them."""
        return getattr(self.images, "identity", None), self.chosen.tobytes()


class ConcatImages:
    """The images of several sequences, one sequence behind the other."""

    def __init__(self, sequences: Sequence[Images]):
        self.sequences = sequences
        self.ends = np.cumsum([len(images) for images in sequences])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Tensor:
        images, place = self.place(index)
        return images[place]

    def place(self, index: int) -> tuple[Images, int]:
        """The sequence that holds an image, and where in it."""
        number = int(np.searchsorted(self.ends, index, side="right"))
        images = self.sequences[number]
        return images, index - int(self.ends[number]) + len(images)

    @property
    def identity(self) -> list[Any]:
        """What identifies the images of each sequence."""
        return [getattr(images, "identity", None) for images in self.sequences]


class Split:
    """One part of a data set, before any transform: names, pictures and all captions of each picture.

    Args:
        name: "train", or what a part that is measured on is called: "val", "seeded val", "test", "all".
        ids: a name for each image, unique within the data set.
        images: the pictures, in the order of `ids`.
        captions: for each image its captions, at least one.
        labels: for each image the name of its class, where the data set has classes.
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

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, name: str, rows: Sequence[int]) -> "Split":
        """Some of the images, under another name."""
        chosen = np.asarray(rows, dtype=np.int64)
        labels = None if self.labels is None else self.labels.select(chosen)
        images = ImageSubset(self.images, chosen)
        return Split(name, self.ids.select(chosen), images, self.captions.select(chosen), labels)

    def with_images(self, images: Images) -> "Split":
        """The same with its pictures read from elsewhere."""
        return Split(self.name, self.ids, images, self.captions, self.labels)

    def fingerprint(self) -> str:
        """A hash of image ids, captions and the split's name: equal data gives equal text."""
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


class Item(NamedTuple):
    """One image with one of its captions.

    Attributes:
        picture: (3, H, W) uint8, all of it.
        box: the part that the model sees.
        caption: as it was written.
        image: place of the image in the split.
        problem: why another image had to stand in, else None.
    """

    picture: Tensor
    box: Box
    caption: str
    image: int
    problem: BrokenImage | None = None


def decoded_at(images: Images, size: int) -> Images:
    """The same images with another shortest side that they may be decoded at, where that can be chosen."""
    if isinstance(images, ImageSubset):
        return ImageSubset(decoded_at(images.images, size), images.chosen)
    if isinstance(images, ConcatImages):
        return ConcatImages([decoded_at(sequence, size) for sequence in images.sequences])
    if not hasattr(images, "decode_size"):
        return images
    images = copy.copy(images)
    images.decode_size = size
    return images


class ImageTextDataset(Dataset[tuple[Tensor, str]]):
    """A split ready for a model. An item is one image with one of its captions.

    `dataset[i]` gives `(image_tensor, raw_caption)`, and `dataset[epoch, i]` the same item of another
    epoch. Whatever the crop draws, and with `captions="random"` the caption, follow from (seed, epoch,
    index) alone, so that they do not depend on workers, order or resuming.

    Args:
        split: images and captions.
        crop: chooses the part of a picture that the model sees.
        seed: of crops and captions.
        captions: "first" of each image, a "random" one each time, or "all", where each caption is an
            item of its own.
        max_broken_fraction: let the next image stand in for one that cannot be read, as long as no more
            than this share of the images is broken (whoever reads the batches counts); None raises.
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

    def __len__(self) -> int:
        return int(self._first_item[-1])

    @property
    def is_decoded(self) -> bool:
        """Whether the pictures lie in memory, or on disk as they will in memory."""
        images = self.images
        while isinstance(images, ImageSubset):
            images = images.images
        return getattr(images, "is_decoded", False)

    @classmethod
    def for_evaluation(cls, split: Split, crop: Crop) -> "ImageTextDataset":
        """A split as evaluation sees it: its pixels do not depend on how it, or another, is trained on."""
        size = math.ceil(crop.image_size / math.sqrt(EVALUATED_SCALE))
        return cls(split.with_images(decoded_at(split.images, size)), crop)

    def __getitem__(self, key: Key | tuple[int, Key]) -> tuple[Tensor, str]:
        item = self.item(key)
        pixels = cut(item.picture, item.box, self.crop.image_size)
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
        problem = None
        for stand_in in range(len(self)):
            try:
                return self._read(epoch, (index + stand_in) % len(self))._replace(problem=problem)
            except BrokenImage as error:
                if self.max_broken_fraction is None:
                    raise
                problem = problem or error
        raise UserError(
            f"None of {counted(len(self), 'image')} of the {self.split.name} split can be read."
        )

    def _read(self, epoch: int, index: int) -> Item:
        image, choice = index, 0
        if self.captions == "all":
            image = int(np.searchsorted(self._first_item, index, side="right")) - 1
            choice = index - int(self._first_item[image])
        picture = self.images[image]
        captions = self.split.captions[image]
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch, index))
        drawn = int(torch.randint(len(captions), (), generator=generator))
        if self.captions == "random":
            choice = drawn
        height, width = picture.shape[1:]
        box = self.crop.box(height, width, generator)
        return Item(picture, box, captions[choice], image)


class TrainingSets(NamedTuple):
    """What a run needs: images to train on, to choose its best checkpoint by, and to measure that on."""

    train: ImageTextDataset
    val: ImageTextDataset
    test: ImageTextDataset | None = None


class DataSource(ABC):
    """Where images and captions come from. A subclass only says how to read its splits.

    Args:
        image_size: side of the square images the model sees, pixels.
        crop: what of a picture trains: "resized", a part of random size, proportions and place; or
            "shifted", a square of 7/8 of the shorter side at a random place, which a cache has at hand
            without resizing.
        crop_scale: share of the picture's area that a resized crop keeps, (least, most).
        eval_crop: what of a picture evaluation sees: "squash", squeezed into the square, or its "center"
            alone. Titles tell of what lies at the edges, too.
        flip: mirror every second training image; wrong where left and right have meaning.
        captions: which captions of an image train: the "first", a "random" one each epoch, or "all", where
            an epoch holds every caption once. Evaluation always takes all of them.
        on_broken_image: "raise" stops at an image that cannot be read; "skip" lets another stand in for it
            in training and leaves it out of validation.
        max_broken_fraction: share of the images that may be broken before "skip" stops too.
        cache: "none" decodes an image each time it is read; "memory" and "disk" decode all of them once, in
            parallel, and keep their pixels at the size that crops need.
        cache_dir: where "disk" keeps them; null is the user's cache folder.
        limit: keep only the first images of each split; null keeps all.
        seed: seed of crops and caption choice.
        seeded_test_fraction: share of the training images that is set apart as a test part, "seeded test",
            where nobody published one; 0 sets none apart.
        eval_split: which part `miniclip evaluate` measures, "val" or "test". Training chooses its best
            checkpoint on the validation part in any case. None is what configs before this setting meant:
            a published test part stands in for validation where there is no other.
        use: "parts", or "all": `miniclip evaluate` measures every image, whatever its part. Nothing can be
            trained then.
    """

    places: ClassVar[tuple[str, ...]] = ("cache_dir",)
    """Settings that name a file, a folder or a set of the hub; of a stranger's config none is opened."""

    split_seed: int = 0
    """Seed of parts that nobody published; most sources have a setting of this name."""

    def __init__(
        self,
        *,
        image_size: int,
        crop_scale: Sequence[float],
        flip: bool,
        limit: int | None,
        seed: int,
        crop: Literal["resized", "shifted"] = "resized",
        eval_crop: Literal["squash", "center"] = "squash",
        captions: CaptionChoice = "random",
        on_broken_image: Literal["raise", "skip"] = "raise",
        max_broken_fraction: float = 0.01,
        cache: Literal["none", "memory", "disk"] = "none",
        cache_dir: str | None = None,
        seeded_test_fraction: float = 0.0,
        eval_split: Literal["val", "test"] | None = None,
        use: Literal["parts", "all"] = "parts",
    ):
        if not 0 <= seeded_test_fraction < 1:
            raise SettingError(
                "seeded_test_fraction", seeded_test_fraction, "must be at least 0 and below 1"
            )
        if eval_split not in ("val", "test", None):
            raise SettingError("eval_split", eval_split, "must be val or test")
        if use not in ("parts", "all"):
            raise SettingError("use", use, "must be parts or all")
        if cache not in ("none", "memory", "disk"):
            raise SettingError("cache", cache, "must be none, memory or disk")
        if crop not in ("resized", "shifted"):
            raise SettingError("crop", crop, "must be resized or shifted")
        if eval_crop not in ("squash", "center"):
            raise SettingError("eval_crop", eval_crop, "must be squash or center")
        if captions not in ("first", "random", "all"):
            raise SettingError("captions", captions, "must be first, random or all")
        if on_broken_image not in ("raise", "skip"):
            raise SettingError("on_broken_image", on_broken_image, "must be raise or skip")
        if not 0 <= max_broken_fraction <= 1:
            raise SettingError("max_broken_fraction", max_broken_fraction, "must lie between 0 and 1")
        if image_size < 16:
            raise SettingError("image_size", image_size, "must be at least 16 pixels")
        if len(crop_scale) != 2 or not 0 < crop_scale[0] <= crop_scale[1] <= 1:
            raise SettingError(
                "crop_scale", list(crop_scale), "must be two shares with 0 < least <= most <= 1"
            )
        if limit is not None and limit < 1:
            raise SettingError("limit", limit, "must be at least 1, or null for all images")
        self.image_size = image_size
        self.crop = crop
        self.eval_crop = eval_crop
        self.crop_scale = (crop_scale[0], crop_scale[1])
        self.flip = flip
        self.limit = limit
        self.seed = seed
        self.captions: CaptionChoice = captions
        self.skips_broken = on_broken_image == "skip"
        self.max_broken_fraction = max_broken_fraction
        self.cache = cache
        self.cache_dir = platformdirs.user_cache_path("miniclip") if cache_dir is None else Path(cache_dir)
        self.seeded_test_fraction = seeded_test_fraction
        self.eval_split = eval_split
        self.use = use

    @property
    def decode_size(self) -> int:
        """Shortest side a picture may be decoded at: its smallest crop still has `image_size` pixels."""
        if self.crop == "shifted":
            return RandomSquareCrop.picture_size(self.image_size)
        return math.ceil(self.image_size / math.sqrt(self.crop_scale[0]))

    @abstractmethod
    def splits(self) -> tuple[Split, ...]:
        """Read the training split, the validation split and, where one is published, the test split."""

    def read_parts(self) -> Parts:
        """The splits by name, with the seeded test part that was asked for.

        Raises:
            SettingError: when a seeded test part is asked for beside a published one.
        """
        from miniclip.data.sources.captions import seeded_rows

        parts = Parts(*self.splits())
        fraction = self.seeded_test_fraction
        if fraction == 0 or (parts.test is not None and parts.test.name == SEEDED_TEST):
            return parts
        if parts.test is not None:
            allowed = f"must be 0: the data set has a part {parts.test.name}, which is measured at the end"
            raise SettingError("seeded_test_fraction", fraction, allowed)

        train, test = seeded_rows(len(parts.train), val_fraction=fraction, seed=self.split_seed)
        return Parts(parts.train.select("train", train), parts.val, parts.train.select(SEEDED_TEST, test))

    def everything(self) -> Split:
        """All images of all parts as one split, "all"."""
        splits = [split for split in self.splits() if len(split)]
        if not splits:
            raise UserError("The data set holds no images. Check the data.* settings.")
        labels = None
        if all(split.labels is not None for split in splits):
            labels = [label for split in splits for label in split.labels or ()]
        return Split(
            "all",
            [image_id for split in splits for image_id in split.ids],
            ConcatImages([split.images for split in splits]),
            [captions for split in splits for captions in split.captions],
            labels,
        )

    def training_sets(self) -> TrainingSets:
        """What a run needs; images that lie in two of the parts are warned of.

        Raises:
            UserError: when a part holds no image, or only images that another part holds, too.
        """
        from miniclip.data.leaks import check_leaks

        if self.use == "all":
            raise SettingError("use", self.use, "is for miniclip evaluate; to train, leave data.use=parts")
        parts = self.read_parts()
        if self.eval_split == "test":
            self._test_of(parts)
            log.info(
                "data.eval_split=test: the best checkpoint is chosen on the %s part all the same; the test "
                "part is measured once, at the end.",
                parts.val.name,
            )
        splits = [self._limited(split) for split in parts.present()]
        sets = TrainingSets(self._for_training(splits[0]), *map(self._for_evaluation, splits[1:]))
        check_leaks(splits, [each.split.with_images(each.images) for each in sets if each is not None])
        return sets

    def datasets(self) -> tuple[ImageTextDataset, ImageTextDataset]:
        """The training data set, and the one that evaluation measures; see `eval_split` and `use`.

        Raises:
            UserError: when a split holds no image.
        """
        if self.use == "all":
            everything = self._limited(self.everything())
            nothing = everything.select("train", [])
            return self._for_training(nothing), self._for_evaluation(everything)
        parts = self.read_parts()
        measured = self._test_of(parts) if self.eval_split == "test" else parts.val
        train, measured = (self._limited(split) for split in (parts.train, measured))
        return self._for_training(train), self._for_evaluation(measured)

    def _test_of(self, parts: Parts) -> Split:
        if parts.test is None:
            allowed = (
                "is no part of this data set; data.seeded_test_fraction=0.1 sets one apart in training"
            )
            raise SettingError("eval_split", "test", allowed)
        return parts.test

    def _for_training(self, split: Split) -> ImageTextDataset:
        crop: Crop = RandomSquareCrop(self.image_size, flip=self.flip)
        if self.crop == "resized":
            crop = RandomResizedCrop(self.image_size, crop_scale=self.crop_scale, flip=self.flip)
        return ImageTextDataset(
            split,
            crop,
            seed=self.seed,
            captions=self.captions,
            max_broken_fraction=self.max_broken_fraction if self.skips_broken else None,
            images=self._cached(split, crop=None),
        )

    def _for_evaluation(self, split: Split) -> ImageTextDataset:
        crop: Crop = SquashResize(self.image_size)
        if self.eval_crop == "center":
            crop = CenterCrop(self.image_size)
        dataset = ImageTextDataset.for_evaluation(split, crop)
        dataset.images = self._cached(dataset.split, crop=crop)
        return self._readable(dataset) if self.skips_broken else dataset

    def _cached(self, split: Split, *, crop: Crop | None) -> Images:
        """The split's images, decoded as `cache` says; with a `crop` that draws nothing, what it sees."""
        if self.cache == "none" or len(split) == 0:
            return split.images
        from miniclip.data.cache import cache_in_memory, cache_on_disk

        size = self.decode_size if crop is None else crop.image_size
        settings: dict[str, Any] = {"size": size, "crop": crop, "skips_broken": self.skips_broken}
        if self.cache == "memory":
            return cache_in_memory(split.images, **settings)
        digest = hashlib.sha256(f"4 {size} {type(crop).__name__} {split.fingerprint()} ".encode())
        digest.update(repr(getattr(split.images, "identity", None)).encode())
        folder = self.cache_dir / f"pixels-{digest.hexdigest()[:24]}"
        return cache_on_disk(split.images, folder, **settings)

    def _readable(self, dataset: ImageTextDataset) -> ImageTextDataset:
        """A data set without images that cannot be read: in a ranking nothing can stand in for them."""
        split = dataset.split
        readable, reasons = [], []
        for index in range(len(split)):
            try:
                _ = dataset.images[index]
                readable.append(index)
            except BrokenImage as error:
                log.warning("Left out of the %s split: %s", split.name, error)
                reasons.append(error.reason)
        if len(reasons) > self.max_broken_fraction * len(split):
            raise UserError(
                f"{len(reasons):,} of {counted(len(split), 'image')} of the {split.name} split cannot be "
                f"read ({by_reason(reasons)}), more than "
                f"data.max_broken_fraction={self.max_broken_fraction:g}. Mend the files above."
            )
        images = ImageSubset(dataset.images, np.asarray(readable, dtype=np.int64))
        return ImageTextDataset(split.select(split.name, readable), dataset.crop, images=images)

    def _limited(self, split: Split) -> Split:
        if len(split) == 0:
            raise UserError(f"The {split.name} split holds no images. Check the data.* settings.")
        keep = len(split) if self.limit is None else min(self.limit, len(split))
        return split.select(split.name, range(keep))


class FolderSource(DataSource):
    """A source that is one folder. Where nobody published a split, a seeded share validates.

    Args:
        root: the folder.
        val_fraction: share of the images that validate where there is no split; the split is then named
            "seeded val" in every result.
        split_seed: seed of that choice; apart from `seed`, so that runs of several seeds compare.
        source_settings: see `DataSource`.

    Raises:
        SettingError: when `root` is no folder.
    """

    places = (*DataSource.places, "root")

    def __init__(self, *, root: str, val_fraction: float, split_seed: int, **source_settings: Any):
        super().__init__(**source_settings)
        check_val_fraction(val_fraction)
        self.root = existing_path("root", root, kind="folder")
        self.val_fraction = val_fraction
        self.split_seed = split_seed


def by_reason(reasons: Iterable[str]) -> str:
    """How many of each: "2 missing, 1 broken"."""
    return ", ".join(f"{count:,} {reason}" for reason, count in Counter(reasons).most_common())


def check_val_fraction(value: float) -> None:
    """Hold a share of images that validate against its range.

    Raises:
        SettingError: when it is no share.
    """
    if not 0 < value < 1:
        raise SettingError("val_fraction", value, "must lie between 0 and 1")


def existing_path(setting: str, value: str, *, kind: str = "file") -> Path:
    """`value` as a path that exists and is of the kind ("file" or "folder").

    Raises:
        SettingError: when it is missing or of another kind.
    """
    path = Path(value).expanduser()
    if not (path.is_file() if kind == "file" else path.is_dir()):
        problem = f"is not a {kind}" if path.exists() else "does not exist"
        raise SettingError(setting, value, f"{problem}; give the path of a {kind}")
    return path


def _mix(seed: int, epoch: int, index: int) -> int:
    """One 63-bit seed from three numbers; near inputs give unrelated outputs."""
    digest = hashlib.blake2b(f"{seed} {epoch} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
