"""Rows of a table with an image in each, as parquet files and data sets of the hub have them."""

import hashlib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from miniclip.data.images import buffer_of
from miniclip.data.sources.encoded_images import CellImages, EncodedImages
from miniclip.data.split import SEEDED_VAL, Split, labels_of
from miniclip.errors import UserError, counted

log = logging.getLogger(__name__)

PARTS = {
    "train": ("train", "training", "restval"),
    "val": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
"""What the parts of a published split are called, in the order of preference."""

PART_OF_WORD = {word: part for part, words in PARTS.items() for word in words}

TAIL_BYTES = 64
"""Images of equal size are told apart by so many of their last bytes, before they are hashed."""


class Rows(NamedTuple):
    """Rows of one part of a table.

    Attributes:
        source: how errors and warnings call them.
        ids: a name for each row.
        encoded: by row the file content of its image.
        captions: by row its captions; none, where it has none.
        labels: by row the name of its class, where there are classes; "" for a row without one.
        words: by row the word in its column `split`, where there is such a column.
        merges: whether rows of equal images are one image with several captions.
    """

    source: str
    ids: Sequence[str]
    encoded: EncodedImages
    captions: Sequence[Sequence[str]]
    labels: Sequence[str] | None
    words: Sequence[Any] | None
    merges: bool


def splits_of_rows(
    parts: Mapping[str, Rows], *, decode_size: int, val_fraction: float, split_seed: int
) -> tuple[Split, ...]:
    """The training, validation and, where there is one, test split of published parts.

    Training rows that come alone are divided by their column `split`. Without validation rows a seeded
    fraction of the training images validates.
    """
    chosen = {part: list(range(len(rows.ids))) for part, rows in parts.items()}
    # published parts count for more than the words in a column
    divided = None
    if len(parts) == 1 and parts["train"].words is not None:
        divided = rows_by_part(parts["train"].words, parts["train"].source)
    if divided is not None:
        parts = dict.fromkeys(divided, parts["train"])
        chosen = divided

    splits = {part: _split(part, rows, chosen[part], decode_size) for part, rows in parts.items()}
    train, test = splits["train"], [splits["test"]] if "test" in splits else []
    if "val" in splits:
        return (train, splits["val"], *test)
    return (*train.set_apart(SEEDED_VAL, fraction=val_fraction, seed=split_seed), *test)


def whole_splits(parts: Mapping[str, Rows], *, decode_size: int) -> tuple[Split, ...]:
    """A split of all rows of each part, whatever their column `split` says."""
    return tuple(_split(name, rows, range(len(rows.ids)), decode_size) for name, rows in parts.items())


def names_training_rows(rows: Rows) -> bool:
    """Whether a column `split` divides the rows: it names some that train."""
    return any(_part_of(word) == "train" for word in rows.words or ())


def rows_by_part(words: Sequence[Any], source: object) -> dict[str, list[int]] | None:
    """Rows by the part that their words in a column `split` name; None where it names no training rows.

    Rows of other words are counted in one warning.

    Args:
        words: by row.
        source: how warnings call the table.
    """
    by_part: dict[str, list[int]] = defaultdict(list)
    others: Counter[str] = Counter()
    for row, word in enumerate(words):
        part = _part_of(word)
        if part is None:
            others[str(word)] += 1
        else:
            by_part[part].append(row)

    unknown = ", ".join(f"{word} {count:,}" for word, count in others.most_common(5))
    if "train" not in by_part:
        log.warning(
            "%s: the column split is not used, since it names no training rows (%s).",
            source,
            unknown or ", ".join(by_part),
        )
        return None
    if others:
        log.warning("%s: rows of other splits are left out: %s.", source, unknown)

    sizes = ", ".join(f"{part} {len(numbers):,}" for part, numbers in by_part.items())
    log.info("%s: divided by the column split: %s.", source, sizes)
    return by_part


def _part_of(word: object) -> str | None:
    return PART_OF_WORD.get(str(word).strip().lower())


def _split(name: str, rows: Rows, chosen: Sequence[int], decode_size: int) -> Split:
    """A split of some of the rows; see `merges` of `Rows`.

    Raises:
        UserError: when no row has a caption.
    """
    captioned = [row for row in chosen if rows.captions[row]]
    if not captioned:
        raise UserError(f"{rows.source} holds no captions.")
    if len(captioned) < len(chosen):
        number = counted(len(chosen) - len(captioned), "row")
        log.warning("%s: %s without a caption left out.", rows.source, number)

    groups = _equal_images(rows, captioned) if rows.merges else [[row] for row in captioned]
    if len(groups) < len(captioned):
        log.warning(
            "%s: %s of equal images are %s with several captions.",
            rows.source,
            counted(sum(len(group) for group in groups if len(group) > 1), "row"),
            counted(sum(len(group) > 1 for group in groups), "image"),
        )

    # the first row of a group stands for all of them
    captions = list(rows.captions)
    for group in groups:
        captions[group[0]] = [text for row in group for text in rows.captions[row]]
    images = CellImages(rows.encoded, rows.ids, decode_size=decode_size)
    whole = Split(name, rows.ids, images, captions, _labels_of_groups(rows, groups))
    split = whole.select(name, [group[0] for group in groups])
    if split.labels is not None:
        split.labels = labels_of(f"{rows.source} ({name})", split.labels)
    return split


def _labels_of_groups(rows: Rows, groups: Sequence[Sequence[int]]) -> Sequence[str] | None:
    """By row its class; the first row of a group has the first class that a row of it names.

    Classes divide no image, else a seeded part with classes would not be that without.
    """
    if rows.labels is None:
        return None
    labels = list(rows.labels)
    num_ambiguous = 0
    for group in groups:
        if len(group) > 1:
            named = dict.fromkeys(rows.labels[row] for row in group if rows.labels[row])
            labels[group[0]] = next(iter(named), "")
            num_ambiguous += len(named) > 1
    if num_ambiguous:
        number = counted(num_ambiguous, "image")
        log.warning("%s: the first class is that of %s with rows of several.", rows.source, number)
    return labels


def _equal_images(rows: Rows, chosen: Sequence[int]) -> list[list[int]]:
    """The chosen rows in groups of one image, in order; images are hashed where they must be."""
    candidates: dict[Hashable, list[int]] = defaultdict(list)
    for row in chosen:
        candidates[_glance(rows.encoded, row)].append(row)

    # one that is alike no other is not read
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for alike, candidate_rows in candidates.items():
        for row in candidate_rows:
            digest = _digest(rows.encoded, row) if len(candidate_rows) > 1 else None
            groups[alike, digest].append(row)
    return sorted(groups.values())


def _glance(encoded: EncodedImages, row: int) -> tuple[Hashable, ...]:
    """What differs for most images that differ: the file, or size and last bytes."""
    path = encoded.paths[row]
    if path is not None:
        return (os.path.realpath(path),)
    content = buffer_of(encoded[row])
    return (len(content), bytes(content[-TAIL_BYTES:])) if len(content) else (row,)


def _digest(encoded: EncodedImages, row: int) -> bytes | None:
    if encoded.paths[row] is not None:
        return None
    return hashlib.blake2b(buffer_of(encoded[row]), digest_size=16).digest()
