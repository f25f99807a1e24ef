"""Rows of a table with an image in each, as parquet files and data sets of the hub have them."""

import hashlib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from miniclip.data.dataset import Split
from miniclip.data.images import ImageBytes
from miniclip.data.sources.captions import seeded_rows
from miniclip.data.sources.columns import captions_of_cell, shortened
from miniclip.data.sources.walk import examples, lies_within
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
        encoded: by row the file content of its image, as `ImageBytes` takes it.
        captions: by row its captions; none, where it has none.
        labels: by row the name of its class, where there are classes.
        words: by row the word in its column `split`, where there is such a column.
        merges: whether rows of equal images are one image with several captions.
    """

    source: str
    ids: Sequence[str]
    encoded: Any
    captions: Sequence[Sequence[str]]
    labels: Sequence[str] | None
    words: Sequence[Any] | None
    merges: bool


class EncodedImages:
    """The file contents of images, from a table or from files that it names; None for a missing one.

    Args:
        contents: by row bytes or None, or an Arrow scalar of these.
        paths: by row the file of an image that has no bytes, else None.
    """

    def __init__(self, contents: Any, paths: Sequence[str | None]):
        self.contents = contents
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Any:
        path = self.paths[row]
        if path is None:
            return self.contents[row]
        return Path(path).read_bytes() if os.path.isfile(path) else None


def splits_of_rows(
    parts: Mapping[str, Rows], *, decode_size: int, val_fraction: float, split_seed: int
) -> tuple[Split, ...]:
    """The training, validation and, where there is one, test split of published parts.

    Training rows that come alone are divided by their column `split`. Without validation rows a seeded
    fraction of the training images validates.
    """
    chosen = {part: list(range(len(rows.ids))) for part, rows in parts.items()}
    divided = _rows_by_part(parts["train"]) if len(parts) == 1 else None
    if divided is not None:
        parts = dict.fromkeys(divided, parts["train"])
        chosen = divided

    splits = {part: _split(part, rows, chosen[part], decode_size) for part, rows in parts.items()}
    train, test = splits["train"], [splits["test"]] if "test" in splits else []
    if "val" in splits:
        return (train, splits["val"], *test)
    train_rows, val_rows = seeded_rows(len(train), val_fraction=val_fraction, seed=split_seed)
    return (train.select("train", train_rows), train.select("seeded val", val_rows), *test)


def whole_splits(parts: Mapping[str, Rows], *, decode_size: int) -> tuple[Split, ...]:
    """A split of all rows of each part, whatever their column `split` says."""
    return tuple(_split(name, rows, range(len(rows.ids)), decode_size) for name, rows in parts.items())


def names_training_rows(rows: Rows) -> bool:
    """Whether a column `split` divides the rows: it names some that train."""
    return any(_part_of(word) == "train" for word in rows.words or ())


def _rows_by_part(rows: Rows) -> dict[str, list[int]] | None:
    """Rows by the part that their column `split` names; None where it names no training rows.

    Rows of other words are counted in one warning.
    """
    if rows.words is None:
        return None
    by_part: dict[str, list[int]] = defaultdict(list)
    others: Counter[str] = Counter()
    for row, word in enumerate(rows.words):
        part = _part_of(word)
        if part is None:
            others[str(word)] += 1
        else:
            by_part[part].append(row)

    unknown = ", ".join(f"{word} {count:,}" for word, count in others.most_common(5))
    if "train" not in by_part:
        log.warning(
            "%s: the column split is not used, since it names no training rows (%s).",
            rows.source,
            unknown or ", ".join(by_part),
        )
        return None
    if others:
        log.warning("%s: rows of other splits are left out: %s.", rows.source, unknown)

    sizes = ", ".join(f"{part} {len(numbers):,}" for part, numbers in by_part.items())
    log.info("%s: divided by the column split: %s.", rows.source, sizes)
    return by_part


def _part_of(word: object) -> str | None:
    return PART_OF_WORD.get(str(word).strip().lower())


def captions_of_rows(
    columns: Mapping[str, Sequence[Any]], field: str | None, *, source: object
) -> list[list[str]]:
    """The captions of each row, over one or several columns; a row without any has an empty list.

    Args:
        columns: the cells of each caption column.
        field: which field of objects holds the caption; see `find_caption_field`.
        source: how an error calls the table.

    Raises:
        UserError: see `captions_of_cell`; for objects the text names their keys.
    """
    num_rows = len(next(iter(columns.values())))
    captions: list[list[str]] = [[] for _ in range(num_rows)]
    for name, cells in columns.items():
        for row, cell in enumerate(cells):
            where = f"{source}: the column {name}, row {row}"
            captions[row] += captions_of_cell(_field_of(cell, field, column=name, where=where), where)

    # Rows with no caption at all are counted where they are left out.
    num_empty = sum(texts.count("") for texts in captions if any(texts))
    if num_empty:
        log.warning("%s: %s of rows with others left out.", source, counted(num_empty, "empty caption"))
    return [[text for text in texts if text] for texts in captions]


def find_caption_field(names: Sequence[str], given: Any) -> tuple[Any, str | None]:
    """A caption column that the user gave, and its field: `caption.en` is the field en of caption.

    A column whose own name has the dot is preferred.
    """
    if not isinstance(given, str) or "." not in given:
        return given, None
    if given.casefold() in [name.casefold() for name in names]:
        return given, None
    column, _, field = given.partition(".")
    return column, field


def find_files(
    paths: Sequence[str | None], has_bytes: Sequence[bool], folders: Sequence[Path], home: Path, source: str
) -> tuple[list[str | None], list[int]]:
    """For each row without bytes the file that its path names in one of the folders, and the rows that
    have neither.

    Raises:
        UserError: when a path leads out of `home`.
    """
    real_home = os.path.realpath(home)
    files: list[str | None] = []
    missing: list[int] = []

    for row, path in enumerate(paths):
        if has_bytes[row]:
            files.append(None)
            continue
        candidates = [os.path.join(folder, path) for folder in folders] if path else []
        found = next((name for name in candidates if os.path.isfile(name)), None)
        named = found or next(iter(candidates), None)
        if named is not None and not lies_within(real_home, named):
            raise UserError(
                f"{source}, row {row}: the image {path!r} lies outside the folder {home}; it is not "
                "opened. Put the images into the folder, and name them as they lie there."
            )
        if found is None:
            missing.append(row)
        files.append(found or named)
    return files, missing


def check_missing(missing: Sequence[int], paths: Sequence[str | None], folder: Path, source: str) -> None:
    """Stop at images that are neither in the table nor beside it.

    Raises:
        UserError: when there are any.
    """
    if not missing:
        return
    names = [shortened(paths[row]) for row in missing if paths[row]]
    if not names:
        which = f"{counted(len(missing), 'row')} without an image, like row {missing[0]}"
        raise UserError(
            f"{source} has {which}. Remove the rows, or leave them out with data.on_broken_image=skip."
        )
    raise UserError(
        f"{source} holds no images in {len(missing):,} of {counted(len(paths), 'row')}, only names of "
        f"files ({examples(names)}), which do not lie in {folder}. Put them there, write the images into "
        "the table as bytes, or name another column with data.image_column=..."
    )


def _field_of(cell: Any, field: str | None, *, column: str, where: str) -> Any:
    """The named field of an object, or of each object of a list; other cells as they are.

    Raises:
        UserError: when an object has no such field, or none is named.
    """
    if isinstance(cell, list):
        return [_field_of(item, field, column=column, where=where) for item in cell]
    if not isinstance(cell, Mapping):
        return cell
    if field in cell:
        return cell[field]
    missing = "" if field is None else f" and without {field}"
    raise UserError(
        f"{where}: a caption is an object with {', '.join(map(str, cell))}{missing}; choose one: "
        f"data.caption_column={column}.{next(iter(cell), 'KEY')}"
    )


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
    captions = list(rows.captions)
    for group in groups:
        captions[group[0]] = [text for row in group for text in rows.captions[row]]
    images = ImageBytes(rows.encoded, rows.ids, decode_size=decode_size)
    whole = Split(name, rows.ids, images, captions, rows.labels)
    return whole.select(name, [group[0] for group in groups])


def _equal_images(rows: Rows, chosen: Sequence[int]) -> list[list[int]]:
    """The chosen rows in groups of one image and class, in order; images are hashed where they must be."""
    candidates: dict[Hashable, list[int]] = defaultdict(list)
    for row in chosen:
        label = None if rows.labels is None else rows.labels[row]
        glance = (label, _glance(rows.encoded, row))
        candidates[glance].append(row)

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
    content = _buffer(encoded, row)
    return (len(content), bytes(content[-TAIL_BYTES:])) if len(content) else (row,)


def _digest(encoded: EncodedImages, row: int) -> bytes | None:
    if encoded.paths[row] is not None:
        return None
    return hashlib.blake2b(_buffer(encoded, row), digest_size=16).digest()


def _buffer(encoded: EncodedImages, row: int) -> memoryview:
    """The encoded image, without a copy where it lies in an Arrow table."""
    content = encoded[row]
    if hasattr(content, "as_buffer"):
        content = content.as_buffer()
    return memoryview(b"" if content is None else content)
