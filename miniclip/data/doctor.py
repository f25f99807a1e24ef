"""What is wrong with a data set, found before it is trained on."""

import hashlib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from miniclip.data.leaks import find_leaks
from miniclip.data.split import Split
from miniclip.errors import UserError

NEAR_BITS = 4
"""Perceptual hashes of 64 bits that differ in no more bits than this may be those of one image."""

NEAR_LEVELS = 8
"""And they are, if no cell of their 16 x 16 thumbnails differs by more levels (of 255): that allows for
another size or compression. The hash alone sees no color and takes all white shirts for one."""

CHUNK = 2048
"""Images that are compared with as many others at a time; and pairs, by their thumbnails."""

SOURCES = logging.getLogger("miniclip.data")


@dataclass
class Examination:
    """What was found in the splits of a data set, two or three.

    Attributes:
        splits: for each split counts of images, captions, captions per image and images per class (None
            where there are no classes), and its fingerprint.
        broken: image to why it cannot be read.
        exact_duplicates: groups of images with the same pixels, each named "split: id"; and of files that
            cannot be decoded those that lie in several splits.
        near_duplicates: pairs of images that look the same but are not.
        leaks: groups and pairs of both kinds that lie in several splits; they falsify a result.
        token_lengths: number of captions by number of tokens, of all splits.
        num_truncated: captions longer than `context_length`.
        remarks: what the source warned of as it read its tables: empty captions, rows it completed.
    """

    splits: dict[str, dict[str, Any]]
    context_length: int
    broken: dict[str, str] = field(default_factory=dict)
    exact_duplicates: list[list[str]] = field(default_factory=list)
    near_duplicates: list[tuple[str, str]] = field(default_factory=list)
    token_lengths: dict[int, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def leaks(self) -> list[Sequence[str]]:
        groups = [*self.exact_duplicates, *self.near_duplicates]
        return [group for group in groups if len({_side(name) for name in group}) > 1]

    @property
    def num_truncated(self) -> int:
        return sum(n for length, n in self.token_lengths.items() if length > self.context_length)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for a file."""
        return {**asdict(self), "leaks": self.leaks, "num_truncated": self.num_truncated}


def examine(
    splits: Sequence[Split], *, token_lengths: Callable[[list[str]], list[int]], context_length: int
) -> Examination:
    """Decode every image at the size it trains at, compare all of them, and measure every caption.

    Args:
        splits: whole, as `DataSource.read_parts` gives them.
        token_lengths: captions to their numbers of tokens, nothing cut off.
        context_length: tokens that the model will see.

    Raises:
        UserError: when a split is empty, or the package imagehash is missing.
    """
    result = Examination({split.name: _counts(split) for split in splits}, context_length)
    captions = [text for split in splits for text in split.captions.flat()]
    result.token_lengths = dict(sorted(Counter(token_lengths(captions)).items()))

    names = [f"{split.name}: {image_id}" for split in splits for image_id in split.ids]
    traits = _traits_of_all(splits)
    by_name = dict(zip(names, traits, strict=True))
    result.broken = {name: found for name, found in by_name.items() if isinstance(found, str)}
    whole = {name: found for name, found in by_name.items() if not isinstance(found, str)}

    groups: dict[bytes, list[str]] = defaultdict(list)
    for name, found in whole.items():
        groups[found.exact].append(name)
    result.exact_duplicates = [group for group in groups.values() if len(group) > 1]
    result.exact_duplicates += _leaks_of_unread(splits, traits)

    # of equal images one stands for all, so that pairs are not named many times
    one_each = [group[0] for group in groups.values()]
    looks = np.array([whole[name].look for name in one_each], dtype=np.uint64)  # (N,)
    thumbnails = np.array([whole[name].thumbnail for name in one_each], dtype=np.int16)  # (N, 768)
    result.near_duplicates = [(one_each[a], one_each[b]) for a, b in _near_pairs(looks, thumbnails)]
    return result


def _leaks_of_unread(splits: Sequence[Split], traits: Sequence["_Traits | str"]) -> list[list[str]]:
    """Groups of equal files in several splits, as training finds them, of what cannot be decoded.

    Of all others equal files have equal pixels, too.
    """
    parts = []
    start = 0
    for split in splits:
        rows = [row for row in range(len(split)) if isinstance(traits[start + row], str)]
        parts.append(split.select(split.name, rows))
        start += len(split)

    groups = find_leaks(parts)
    return [[f"{parts[place.part].name}: {place.id}" for place in group] for group in groups]


def _counts(split: Split) -> dict[str, Any]:
    if len(split) == 0:
        raise UserError(f"The {split.name} split holds no images. Check the data.* settings.")

    per_image = split.captions.counts
    classes = None if split.labels is None else dict(Counter(split.labels).most_common())
    return {
        "images": len(split),
        "captions": int(per_image.sum()),
        "captions_an_image": [int(per_image.min()), float(per_image.mean()), int(per_image.max())],
        "longest_caption": max(split.captions.flat(), key=len)[:200],
        "fingerprint": split.fingerprint(),
        "classes": classes,
    }


class Remarks(logging.Handler):
    """Keeps the warnings of the data sources, in the order they come, while it is entered."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def __enter__(self) -> "Remarks":
        SOURCES.addHandler(self)
        return self

    def __exit__(self, *raised: object) -> None:
        SOURCES.removeHandler(self)


class _Traits(NamedTuple):
    """What an image is compared by: a hash of its pixels, one of its looks, and its thumbnail (768,)."""

    exact: bytes
    look: int
    thumbnail: np.ndarray


def _traits_of_all(splits: Sequence[Split]) -> list[_Traits | str]:
    """The traits of each image, or why it cannot be read."""
    try:
        from imagehash import phash
    except ImportError:
        raise UserError('miniclip doctor needs imagehash: pip install -e ".[data]"') from None

    def traits(place: tuple[Split, int]) -> _Traits | str:
        split, index = place
        try:
            pixels = split.images[index].permute(1, 2, 0).contiguous().numpy()
        except UserError as error:
            return str(error)

        image = Image.fromarray(pixels)
        exact = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        look = int(np.packbits(phash(image).hash).view(">u8")[0])  # 64 bits as one number
        thumbnail = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)).ravel()
        return _Traits(exact, look, thumbnail)

    places = [(split, index) for split in splits for index in range(len(split))]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = threads.map(traits, places)
        return list(tqdm(found, total=len(places), unit="img", leave=False, disable=None))


def _near_pairs(looks: np.ndarray, thumbnails: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of places (a < b) whose hashes and thumbnails are near each other."""
    pairs: list[tuple[int, int]] = []
    starts = range(0, len(looks), CHUNK)
    for row, column in combinations_with_replacement(starts, 2):
        rows, columns = looks[row : row + CHUNK], looks[column : column + CHUNK]
        bits = np.bitwise_count(rows[:, None] ^ columns)  # (CHUNK, CHUNK), how many differ
        a, b = np.nonzero(bits <= NEAR_BITS)
        a, b = a + row, b + column

        # of a thousand white shirts each hash is near each other one
        for start in range(0, len(a), CHUNK):
            some_a, some_b = a[start : start + CHUNK], b[start : start + CHUNK]
            levels = np.abs(thumbnails[some_a] - thumbnails[some_b]).max(axis=1)  # (CHUNK,)
            is_near = (some_a < some_b) & (levels <= NEAR_LEVELS)
            pairs += zip(some_a[is_near].tolist(), some_b[is_near].tolist(), strict=True)
    return sorted(pairs)


def _side(name: str) -> str:
    return name.partition(": ")[0]
