"""Captions grouped by image, and the images they name."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from miniclip.data.images import ImageFiles
from miniclip.data.sources.caption_cells import checked_text
from miniclip.data.sources.image_names import find_images
from miniclip.data.split import Split, seeded_rows
from miniclip.errors import UserError, counted

log = logging.getLogger(__name__)

Captions = Mapping[str, Sequence[str]]
"""Image name, relative to the image folder, to its captions."""


def group_by_image(rows: Iterable[tuple[str, str]], source: object) -> Captions:
    """Gather (image name, caption) rows by image, in the order of first appearance.

    Rows without a caption are left out, with one warning.

    Raises:
        UserError: when no row is left, or a caption is longer than `checked_text` allows.
    """
    captions: dict[str, list[str]] = defaultdict(list)
    num_empty = 0
    for name, caption in rows:
        text = caption.strip()
        if text:
            captions[name.strip()].append(checked_text(text, f"{source}, image {name.strip()}"))
        else:
            num_empty += 1

    if num_empty:
        log.warning("%s: %s without a caption left out.", source, counted(num_empty, "row"))
    if not captions:
        raise UserError(f"{source} holds no captions.")
    return dict(captions)


def split_of_files(
    name: str, captions: Captions, root: Path, *, decode_size: int, skips_missing: bool
) -> Split:
    """A split whose images are files below `root`; see `by_file`."""
    # two ways to write one name cannot part an image from itself
    captions = by_file(captions, root, skips_missing=skips_missing)
    return split_of_found_files(name, captions, root, decode_size=decode_size)


def split_of_found_files(name: str, captions: Captions, root: Path, *, decode_size: int) -> Split:
    """A split whose images are files below `root` that `by_file` has found."""
    names = list(captions)
    images = ImageFiles(root, names, decode_size=decode_size)
    return Split(name, ids=names, images=images, captions=list(captions.values()))


def by_file(captions: Captions, root: Path, *, skips_missing: bool) -> Captions:
    """The captions by the file below `root` that each name means; names of one file share theirs.

    Raises:
        UserError: when a named image lies outside `root`, or is missing and `skips_missing` is not set.
    """
    files = find_images(root, captions, skips_missing=skips_missing)
    found: dict[str, list[str]] = defaultdict(list)
    for name, file in files.items():
        found[file].extend(captions[name])
    return found


def seeded_split(captions: Captions, *, val_fraction: float, seed: int) -> tuple[Captions, Captions]:
    """Training and validation captions, divided by image."""
    items = list(captions.items())
    train, val = seeded_rows(len(items), fraction=val_fraction, seed=seed)
    return dict(items[row] for row in train), dict(items[row] for row in val)
