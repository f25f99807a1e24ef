"""What all data sources have in common: from the parts of a data set to what a run reads."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import platformdirs

from miniclip.data.cache import PixelCache
from miniclip.data.caption_noise import exchanged_captions
from miniclip.data.dataset import CaptionChoice, ImageTextDataset, TrainingSets, without_broken
from miniclip.data.eval_preprocessing import CROPS
from miniclip.data.image_content import evaluated_size
from miniclip.data.leaks import check_leaks
from miniclip.data.sources.checks import (
    check_fractions,
    check_sizes,
    check_val_fraction,
    check_view,
    existing_path,
)
from miniclip.data.split import SEEDED_TEST, SEEDED_VAL, Parts, Split, concatenated
from miniclip.data.transforms import Crop, RandomResizedCrop, RandomSquareCrop
from miniclip.errors import SettingError, UserError, counted, in_range
from miniclip.files import typed_path

log = logging.getLogger(__name__)

MOST_HINTED = 10
"""Gigabytes of decoded images up to which a run is told that it could keep them in memory."""


class DataSource(ABC):
    """Where images and captions come from. A subclass only says how to read its splits.

    Args:
        image_size: side of the square images the model sees, pixels.
        crop: what of an image trains: "resized", a part of random size, proportions and place; "shifted",
            a square of 7/8 of the shorter side at a random place, which a cache has at hand without
            resizing; or "eval", just what evaluation sees, where nothing is drawn.
        crop_scale: fraction of the image's area that a resized crop keeps, (least, most).
        eval_crop: what of an image evaluation sees: "squash", squeezed into the square, or its "center"
            alone. Titles tell of what lies at the edges, too.
        flip: mirror every second training image; wrong where left and right have meaning.
        captions: which captions of an image train: the "first", a "random" one each epoch, or "all", where
            an epoch holds every caption once. Evaluation always takes all of them.
        caption_noise: fraction of the training images, of those that `limit` keeps, whose captions are
            exchanged among one another. Which ones follows from `split_seed`, so that runs of several seeds
            train on the same. What is measured keeps its captions.
        on_broken_image: "raise" stops at an image that cannot be read; "skip" lets another stand in for it
            in training and leaves it out of validation.
        max_broken_fraction: fraction of the images that may be broken before "skip" stops too.
        cache: "none" decodes an image each time it is read; "memory" and "disk" decode all of them once, in
            parallel, and keep their pixels at the size that crops need. "features" is for frozen towers:
            keeps on disk what they make of images and captions, and training goes on from there.
        cache_dir: where "disk" and "features" keep it; null is the user's cache folder.
        limit: keep only the first images of each split; null keeps all.
        seed: seed of crops and caption choice.
        seeded_test_fraction: fraction of the training images that is set apart as a test part, "seeded
            test", where nobody published one; 0 sets none apart.
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

    val_fraction: float = 0.0
    """Fraction of the images that validate where nobody published a split; likewise."""

    def __init__(
        self,
        *,
        image_size: int,
        crop_scale: Sequence[float],
        flip: bool,
        limit: int | None,
        seed: int,
        crop: Literal["resized", "shifted", "eval"] = "resized",
        eval_crop: Literal["squash", "center"] = "squash",
        captions: CaptionChoice = "random",
        caption_noise: float = 0.0,
        on_broken_image: Literal["raise", "skip"] = "raise",
        max_broken_fraction: float = 0.01,
        cache: Literal["none", "memory", "disk", "features"] = "none",
        cache_dir: str | None = None,
        seeded_test_fraction: float = 0.0,
        eval_split: Literal["val", "test"] | None = None,
        use: Literal["parts", "all"] = "parts",
    ):
        # choices are held against their Literal types before a source is made
        check_sizes(image_size, crop_scale, limit)
        check_fractions(max_broken_fraction, seeded_test_fraction)
        check_view(crop, flip=flip, cache=cache)
        in_range("caption_noise", caption_noise, 0, 1)

        self.image_size = image_size
        self.crop_scale = (crop_scale[0], crop_scale[1])
        self.flip = flip
        self.limit = limit
        self.seed = seed
        self.crop = crop
        self.eval_crop = eval_crop
        self.captions = captions
        self.caption_noise = caption_noise
        self.skips_broken = on_broken_image == "skip"
        self.max_broken_fraction = max_broken_fraction
        self.cache_dir = (
            platformdirs.user_cache_path("miniclip") if cache_dir is None else typed_path(cache_dir)
        )
        self.keeps_features = cache == "features"
        of_pixels = "none" if cache == "features" else cache
        self.pixel_cache = PixelCache(of_pixels, self.cache_dir, skips_broken=self.skips_broken)
        self.seeded_test_fraction = seeded_test_fraction
        self.eval_split = eval_split
        self.use = use

    @property
    def decode_size(self) -> int:
        """Shortest side an image may be decoded at: its smallest crop still has `image_size` pixels."""
        if self.crop == "shifted":
            return RandomSquareCrop.source_size(self.image_size)
        if self.crop == "eval":
            return evaluated_size(self.image_size)
        return math.ceil(self.image_size / math.sqrt(self.crop_scale[0]))

    @abstractmethod
    def splits(self) -> tuple[Split, ...]:
        """Read the training split, the validation split and, where one is published, the test split."""

    def read_parts(self) -> Parts:
        """The splits by name, with the seeded test part that was asked for.

        Raises:
            SettingError: when a seeded test part is asked for beside a published one.
            UserError: when the source has no validation part.
        """
        splits = self.splits()
        if len(splits) not in (2, 3):
            raise UserError(
                f"{type(self).__name__}.splits() gives {counted(len(splits), 'part')}; it must give a "
                "training and a validation part, and may give a test part. Where nobody published a "
                'split, Split.set_apart("seeded val", fraction=0.1, seed=0) makes two of one.'
            )
        parts = Parts(*splits)
        fraction = self.seeded_test_fraction
        if fraction == 0 or (parts.test is not None and parts.test.name == SEEDED_TEST):
            return parts
        if parts.test is not None:
            allowed = f"must be 0: the data set has a part {parts.test.name}, which is measured at the end"
            raise SettingError("seeded_test_fraction", fraction, allowed)

        train, test = parts.train.set_apart(SEEDED_TEST, fraction=fraction, seed=self.split_seed)
        return Parts(train, parts.val, test)

    def fingerprints(self) -> dict[str, str]:
        """`Split.fingerprint` of the parts that a run reads, by their names; no image is read.

        Only of those that a run keeps as they are: exchanged captions make another training part, images
        that are broken and left out another one to measure on.
        """
        train, *measured = [self.limited(split) for split in self.read_parts().present()]
        as_they_are = [train] if self.caption_noise == 0 else []
        as_they_are += [] if self.skips_broken else measured
        return {split.name: split.fingerprint() for split in as_they_are}

    def everything(self) -> Split:
        """All images of all parts as one split, "all".

        Raises:
            UserError: when there are none.
        """
        splits = [split for split in self.splits() if len(split)]
        if not splits:
            raise UserError("The data set holds no images. Check the data.* settings.")
        return concatenated("all", splits)

    def training_sets(self) -> TrainingSets:
        """What a run needs; images that lie in two of the parts are warned of.

        Raises:
            UserError: when a part holds no image, or only images that another part holds, too.
        """
        if self.use == "all":
            raise SettingError("use", self.use, "is for miniclip evaluate; to train, leave data.use=parts")
        parts = self.read_parts()
        if self.eval_split == "test":
            _test_of(parts)
            log.info(
                "data.eval_split=test: the best checkpoint is chosen on the %s part all the same; the test "
                "part is measured once, at the end.",
                parts.val.name,
            )

        train, *measured = [self.limited(split) for split in parts.present()]
        sets = TrainingSets(self._for_training(train), *map(self._for_evaluation, measured))

        readings = [[train, *measured]]
        if self.pixel_cache.kind != "none":  # files that differ may be one image when they are decoded
            readings.append([each.split.with_images(each.images) for each in sets if each is not None])
        check_leaks(*readings)
        self._hint_at_cache(sets.train)
        return sets

    def datasets(self) -> tuple[ImageTextDataset, ImageTextDataset]:
        """The training data set, and the one that evaluation measures; see `eval_split` and `use`.

        Raises:
            UserError: when a split holds no image.
        """
        if self.use == "all":
            everything = self.limited(self.everything())
            nothing = everything.select("train", [])  # what is measured must not train
            return self._for_training(nothing), self._for_evaluation(everything)

        parts = self.read_parts()
        measured = _test_of(parts) if self.eval_split == "test" else parts.val
        train, measured = self.limited(parts.train), self.limited(measured)
        return self._for_training(train), self._for_evaluation(measured)

    def limited(self, split: Split) -> Split:
        """The first images of a split, as many as `limit` says.

        Raises:
            UserError: when it holds none, or one without a caption.
        """
        if len(split) == 0:
            cause = {SEEDED_VAL: "val_fraction", SEEDED_TEST: "seeded_test_fraction"}.get(split.name)
            hint = f"raise data.{cause}={getattr(self, cause):g}" if cause else "check the data.* settings"
            if split.name == "train":
                hint += ", or lower data.val_fraction, if that set all images apart"
            raise UserError(f"The {split.name} split holds no images: {hint}.")

        without = np.flatnonzero(split.captions.counts == 0)
        if len(without) > 0:
            image_id = split.ids[int(without[0])]
            raise UserError(f"The {split.name} split: image {image_id!r} has no caption; leave it out.")

        keep = len(split) if self.limit is None else min(self.limit, len(split))
        return split.select(split.name, range(keep))

    def _for_training(self, split: Split) -> ImageTextDataset:
        # caches are named after the split without noise: its pixels are the same
        noisy = exchanged_captions(split, fraction=self.caption_noise, seed=self.split_seed)

        crop = self._training_crop()
        if self.crop == "eval":
            images = self.pixel_cache.keep(split, size=crop.image_size, crop=crop)
        else:
            images = self.pixel_cache.keep(split, size=self.decode_size)

        return ImageTextDataset(
            noisy,
            crop,
            seed=self.seed,
            captions=self.captions,
            max_broken_fraction=self.max_broken_fraction if self.skips_broken else None,
            images=images,
        )

    def _for_evaluation(self, split: Split) -> ImageTextDataset:
        crop: Crop = CROPS[self.eval_crop](self.image_size)

        # crops of evaluation draw nothing, so that what they see is all a cache need keep
        dataset = ImageTextDataset.for_evaluation(split, crop)
        dataset.images = self.pixel_cache.keep(dataset.split, size=crop.image_size, crop=crop)
        if not self.skips_broken:
            return dataset
        return without_broken(dataset, max_broken_fraction=self.max_broken_fraction)

    def _hint_at_cache(self, dataset: ImageTextDataset) -> None:
        gigabytes = dataset.num_images * self.decode_size**2 * 4 / 1e9  # three channels, 4 wide to 3 high
        if not self.keeps_features and not dataset.is_decoded and gigabytes < MOST_HINTED:
            log.info(
                "Every epoch decodes the images anew; data.cache=memory (some %.1f GB) decodes each once.",
                max(gigabytes, 0.1),
            )

    def _training_crop(self) -> Crop:
        if self.crop == "eval":
            return CROPS[self.eval_crop](self.image_size)
        if self.crop == "shifted":
            return RandomSquareCrop(self.image_size, flip=self.flip)
        return RandomResizedCrop(self.image_size, crop_scale=self.crop_scale, flip=self.flip)


class FolderSource(DataSource):
    """A source that is one folder. Where nobody published a split, a seeded fraction validates.

    Args:
        root: the folder.
        val_fraction: fraction of the images that validate where there is no split; the split is then named
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


def _test_of(parts: Parts) -> Split:
    if parts.test is None:
        allowed = "is no part of this data set; data.seeded_test_fraction=0.1 sets one apart in training"
        raise SettingError("eval_split", "test", allowed)
    return parts.test
