"""Images with their captions: what every data source delivers and what the training loop reads."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from miniclip.data.transforms import Crop, TrainingCrop, evaluation_crop, normalise
from miniclip.errors import SettingError, UserError


class Images(Protocol):
    """A sequence of pictures (3, H, W) uint8 that are read one at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor: ...


@dataclass(frozen=True)
class Split:
    """One side of a data set, before any transform: names, pictures and all captions of each picture.

    Attributes:
        name: "train" or "val".
        ids: a name for each image, unique within the data set.
        images: the pictures, in the order of `ids`.
        captions: for each image its captions, at least one.
    """

    name: str
    ids: Sequence[str]
    images: Images
    captions: Sequence[Sequence[str]]

    def __len__(self) -> int:
        return len(self.ids)

    def fingerprint(self) -> str:
        """A hash of image ids, captions and the split's name: equal data gives equal text."""
        digest = hashlib.sha256(self.name.encode())
        for image_id, captions in zip(self.ids, self.captions, strict=True):
            digest.update(repr((str(image_id), tuple(captions))).encode())
        return digest.hexdigest()[:16]


class CaptionedImages(Dataset[tuple[Tensor, str]]):
    """A split ready for a model. An item is one image with one of its captions.

    `dataset[i]` gives `(image_tensor, raw_caption)`, and `dataset[epoch, i]` the same item of another
    epoch. In training the caption and the crop are drawn from (seed, epoch, index) alone, so that they
    do not depend on workers, order or resuming; in evaluation the caption is the first one and the crop
    is the centre.
    """

    def __init__(
        self,
        split: Split,
        crop: Crop,
        *,
        seed: int = 0,
        random: bool = False,
    ):
        self.split = split
        self.crop = crop
        self.seed = seed
        self.random = random

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, str]:
        pixels, caption = self.pixels(key)
        return normalise(pixels), caption

    def pixels(self, key: int | tuple[int, int]) -> tuple[Tensor, str]:
        """The item with its image as uint8, not yet normalised: a quarter of the bytes to carry."""
        epoch, index = (0, key) if isinstance(key, int) else key
        image = self.split.images[index]
        captions = self.split.captions[index]
        if not self.random:
            return self.crop(image), captions[0]
        generator = torch.default_generator  # torchvision's transforms draw from this one only
        state = generator.get_state()
        generator.manual_seed(_mix(self.seed, epoch, index))
        try:
            choice = int(torch.randint(len(captions), ()))
            return self.crop(image), captions[choice]
        finally:
            generator.set_state(state)


class Source(ABC):
    """Where images and captions come from. A subclass only says how to read its two splits.

    Args:
        image_size: side of the square images the model sees, pixels.
        crop_scale: share of the picture's area that a random training crop keeps, (least, most).
        flip: mirror every second training image; wrong where left and right have meaning.
        limit: keep only the first images of each split; null keeps all.
        seed: seed of crops and caption choice.
    """

    def __init__(
        self,
        *,
        image_size: int,
        crop_scale: Sequence[float],
        flip: bool,
        limit: int | None,
        seed: int,
    ):
        if image_size < 16:
            raise SettingError("image_size", image_size, "must be at least 16 pixels")
        if len(crop_scale) != 2 or not 0 < crop_scale[0] <= crop_scale[1] <= 1:
            raise SettingError(
                "crop_scale", list(crop_scale), "must be two shares with 0 < least <= most <= 1"
            )
        if limit is not None and limit < 1:
            raise SettingError("limit", limit, "must be at least 1, or null for all images")
        self.image_size = image_size
        self.crop_scale = (crop_scale[0], crop_scale[1])
        self.flip = flip
        self.limit = limit
        self.seed = seed

    @property
    def decode_size(self) -> int:
        """Shortest side a picture may be decoded at: its smallest crop still has `image_size` pixels."""
        return math.ceil(self.image_size / math.sqrt(self.crop_scale[0]))

    @abstractmethod
    def splits(self) -> tuple[Split, Split]:
        """Read the training and the validation split."""

    def datasets(self) -> tuple[CaptionedImages, CaptionedImages]:
        """The training and the validation data set.

        Raises:
            UserError: when a split holds no image.
        """
        train, val = (self._limited(split) for split in self.splits())
        return (
            CaptionedImages(
                train,
                TrainingCrop(self.image_size, crop_scale=self.crop_scale, flip=self.flip),
                seed=self.seed,
                random=True,
            ),
            CaptionedImages(val, evaluation_crop(self.image_size)),
        )

    def _limited(self, split: Split) -> Split:
        if len(split) == 0:
            raise UserError(f"The {split.name} split holds no images. Check the data.* settings.")
        keep = len(split) if self.limit is None else min(self.limit, len(split))
        return Split(split.name, split.ids[:keep], split.images, split.captions[:keep])


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
