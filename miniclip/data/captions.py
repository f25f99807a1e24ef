"""Captions grouped by image, and the images they name."""

import logging
import os
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from miniclip.data.dataset import Split
from miniclip.data.images import ImageFiles
from miniclip.errors import UserError

log = logging.getLogger(__name__)

Captions = Mapping[str, Sequence[str]]
"""Image name, relative to the image folder, to its captions."""


def group_by_image(rows: Iterable[tuple[str, str]], source: Path) -> Captions:
    """Gather (image name, caption) rows by image, in the order of first appearance.

    Rows without a caption are left out, with one warning.

    Raises:
        UserError: when no row is left.
    """
    captions: dict[str, list[str]] = defaultdict(list)
    num_empty = 0
    for name, caption in rows:
        text = caption.strip()
        if text:
            captions[name.strip()].append(text)
        else:
            num_empty += 1

    if num_empty:
        log.warning("%s: %d rows without a caption are left out.", source, num_empty)
    if not captions:
        raise UserError(f"{source} holds no captions.")
    return dict(captions)


def split_of_files(
    name: str, captions: Captions, root: Path, *, decode_size: int, skips_missing: bool
) -> Split:
    """A split whose images are files below `root`.

    Raises:
        UserError: when a named image lies outside `root`, or is missing and `skips_missing` is not set.
    """
    _check_files(root, captions, skips_missing=skips_missing)
    names = list(captions)
    images = ImageFiles(root, names, decode_size=decode_size)
    return Split(name, ids=names, images=images, captions=list(captions.values()))


def seeded_split(captions: Captions, *, val_fraction: float, seed: int) -> tuple[Captions, Captions]:
    """Training and validation captions, shared out by image."""
    items = list(captions.items())
    train, val = seeded_rows(len(items), val_fraction=val_fraction, seed=seed)
    return {items[row][0]: items[row][1] for row in train}, {items[row][0]: items[row][1] for row in val}


def seeded_rows(count: int, *, val_fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows of training and of validation images, each in order."""
    rows = list(range(count))
    random.Random(seed).shuffle(rows)
    num_val = round(count * val_fraction)
    return sorted(rows[num_val:]), sorted(rows[:num_val])


def _check_files(root: Path, names: Iterable[str], *, skips_missing: bool) -> None:
    """Each folder is listed once; asking for every file by itself takes ten times as long."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for name in names:
        folder, file = os.path.split(name)
        by_folder[folder].append(file)
    home = os.path.realpath(root)
    missing = []
    for folder, files in by_folder.items():
        path = os.path.join(home, folder)
        if "\0" in folder or not _lies_within(home, path):
            raise _outside(root, f"{folder}/{files[0]}")
        if not os.path.isdir(path):
            missing += [os.path.join(path, file) for file in files]
            continue
        with os.scandir(path) as entries:
            links = {entry.name: entry.is_symlink() for entry in entries if not entry.is_dir()}
        for file in files:
            if file not in links:
                missing.append(os.path.join(path, file))
            elif links[file] and not _lies_within(home, os.path.join(path, file)):
                raise _outside(root, os.path.join(folder, file))
    if missing and not skips_missing:
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise UserError(
            f"The image {missing[0]!r}{more} named by the captions is missing. Check the image folder "
            f"{root}, or remove the rows."
        )


def _lies_within(home: str, path: str) -> bool:
    return os.path.commonpath([home, os.path.realpath(path)]) == home


def _outside(root: Path, name: str) -> UserError:
    return UserError(f"The image {name!r} lies outside the image folder {root}; it is not opened.")
