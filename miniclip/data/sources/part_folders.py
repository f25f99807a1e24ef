"""Folders that divide a set into its published parts."""

import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from miniclip.data.sources.rows import PART_OF_WORD
from miniclip.data.sources.walk import examples, find_images, readable_endings, visible_entries

log = logging.getLogger(__name__)


PartWords = Literal["usual", "exact"]
"""What a folder of a part may be called: a word of `PARTS` in any case, or a source's own words alone."""

ORDER = ("train", "training", "val", "valid", "validation", "dev", "test", "testing")
"""Of two folders for one part the first counts."""


def part_folders(root: Path, words: PartWords, *, exact: Collection[str]) -> dict[str, Path]:
    """The folders inside `root` that are its parts, "train", "val" and "test", by what they are called.

    Args:
        exact: the words of "exact", as folders of these very names.
    """
    by_name = {entry.name: Path(entry.path) for entry in _in_order(root) if entry.is_dir()}
    if words == "usual":
        by_name = {name.lower(): path for name, path in by_name.items()}

    found: dict[str, Path] = {}
    for word in ORDER if words == "usual" else [word for word in ORDER if word in exact]:
        if word in by_name:
            found.setdefault(PART_OF_WORD[word], by_name[word])
    return found


def tell_parts_that_train(root: Path, parts: Collection[Path]) -> None:
    """Warn of folders called like parts that are none, as no folder of training images is beside them."""
    if parts:
        names = ", ".join(path.name for path in parts)
        log.warning(
            "%s: its images train and validate alike, also those in %s, as no folder is called train. Call "
            "that of the training images so.",
            root,
            names,
        )


def tell_what_is_in_no_part(root: Path, parts: Collection[Path]) -> None:
    """Warn of the images that lie beside the folders of the parts, for these are not read."""
    beside = [entry for entry in _in_order(root) if Path(entry.path) not in parts]
    holds_images = [
        entry.name
        for entry in beside
        if (find_images(Path(entry.path), root=root) if entry.is_dir() else _is_image(entry.name))
    ]
    if holds_images:
        log.warning(
            "%s: divided by its folders %s; the images beside them are left out: %s.",
            root,
            ", ".join(path.name for path in parts),
            examples(holds_images),
        )


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in readable_endings()


def _in_order(root: Path) -> list["os.DirEntry[str]"]:
    return sorted(visible_entries(root), key=lambda entry: entry.name)
