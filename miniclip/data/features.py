"""Features of frozen towers in place of images and captions, kept in files that are whole or not there."""

import json
import logging
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from miniclip.data.cache import Unwritable
from miniclip.data.dataset import ImageTextDataset, Item, Key
from miniclip.data.images import Images, is_readable_again
from miniclip.data.transforms import Box
from miniclip.data.whole_folder import fits_into_memory
from miniclip.errors import BrokenImage
from miniclip.files import locked, replacing
from miniclip.tokenizers import Tokenizer

log = logging.getLogger(__name__)

NO_BOX = Box(0, 0, 0, 0)
"""Of features nothing is cut out."""

NOT_KEPT = "Features are computed in each run."


class Features(NamedTuple):
    """What a frozen tower makes of the images of a split, or of captions.

    Attributes:
        rows: (N, width) float32.
        problems: why an image could not be read, by its row: text and reason of a `BrokenImage`.
    """

    rows: Tensor
    problems: dict[int, tuple[str, str]]


class FeatureDataset(ImageTextDataset):
    """A data set whose images went through a frozen tower before.

    An item draws the same caption as that of the data set itself, and the same image stands in for one that
    cannot be read.

    Args:
        dataset: the data set itself.
        features: a row for each image of its split.
    """

    holds_features = True

    def __init__(self, dataset: ImageTextDataset, features: Features):
        super().__init__(
            dataset.split,
            dataset.crop,
            seed=dataset.seed,
            captions=dataset.captions,
            max_broken_fraction=dataset.max_broken_fraction,
            images=dataset.images,
        )
        self.features = features

    @property
    def is_decoded(self) -> bool:
        """Nothing is left to decode: no worker process is needed."""
        return True

    def __getitem__(self, key: Key | tuple[int, Key]) -> tuple[Tensor, str]:
        item = self.item(key)
        return item.image, item.caption

    def _read(self, epoch: int, index: int, problem: BrokenImage | None) -> Item:
        row, caption, _ = self._choose(epoch, index)
        if row in self.features.problems:
            raise BrokenImage(*self.features.problems[row])
        return Item(self.features.rows[row], NO_BOX, caption, row, problem)


class CaptionFeatures(Tokenizer):
    """Looks up what a frozen tower made of captions, in the place of a tokenizer.

    Args:
        captions: all that will be asked for.
        features: a row for each of them.
        context_length: of the tokenizer whose place it takes.
    """

    def __init__(self, captions: Sequence[str], features: Tensor, *, context_length: int):
        super().__init__(None, context_length=context_length)
        self.row_of = {caption: row for row, caption in enumerate(captions)}
        self.features = features

    def encode(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Features (B, width) float32, and an empty mask (B, 0)."""
        rows = torch.tensor([self.row_of[caption] for caption in captions])
        return self.features[rows], torch.zeros(len(captions), 0, dtype=torch.bool)


def kept_features(
    path: Path, num_rows: int, compute: Callable[[], Features], *, images: Images | None = None
) -> Features:
    """The features in a file, which are computed and written if it is missing or damaged.

    Of several processes that want the same file one computes, and the others wait for it. Where nothing can
    be written they are computed in each run, which is told.

    Args:
        num_rows: how many rows it must have.
        images: what they are of; a file without one that can be read by now is made anew, too.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("%s %s", Unwritable(path, error), NOT_KEPT)
        return _trainable(compute())

    with locked(path.with_suffix(".lock"), wait_seconds=-1):
        found = _read(path, num_rows)
        if found is not None and images is not None and is_readable_again(images, found.problems):
            log.warning("The cache %s lacks images that can be read by now, and is made anew.", path)
            found = None
        return found or _computed(path, compute)


def _computed(path: Path, compute: Callable[[], Features]) -> Features:
    """The features, written into the file if it can be."""
    features = compute()
    try:
        _write(path, features)
    except OSError as error:
        log.warning("%s %s", Unwritable(path, error), NOT_KEPT)
    return _trainable(features)


def _trainable(features: Features) -> Features:
    """The features as a gradient may pass: a tensor of torch's inference mode refuses it."""
    return features._replace(rows=features.rows.clone())


def _write(path: Path, features: Features) -> None:
    # JSON has no whole numbers as keys
    problems = json.dumps([[row, *problem] for row, problem in features.problems.items()])
    rows = features.rows.contiguous()
    metadata = {"problems": problems, "checksum": str(_checksum(rows, problems))}
    with replacing(path, "wb") as file:
        file.write(save({"features": rows}, metadata))


def _read(path: Path, num_rows: int) -> Features | None:
    """The features in a file; None where there is none, or it is damaged.

    They are read into memory if they fit, else mapped. A mapped file that is cut ends the process.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            rows = file.get_tensor("features")
            metadata = file.metadata()
        if len(rows) == num_rows and metadata["checksum"] == str(_checksum(rows, metadata["problems"])):
            problems = {row: (text, reason) for row, text, reason in json.loads(metadata["problems"])}
            return Features(rows.clone() if fits_into_memory(rows.nbytes) else rows, problems)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        log.debug("%s: %s", path, error)
    log.warning("The cache %s is damaged and is made anew.", path)
    return None


def _checksum(rows: Tensor, problems: str) -> int:
    return zlib.crc32(rows.numpy().data, zlib.crc32(problems.encode()))
