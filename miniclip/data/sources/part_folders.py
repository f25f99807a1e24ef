"""Folders that divide a set into its published parts."""

import logging
import os
from collections.abc import Collection
from pathlib import Path

from miniclip.data.sources.rows import PARTS
from miniclip.data.sources.walk import examples, find_images, readable_endings, visible_entries

log = logging.getLogger(__name__)


def part_folders(root: Path) -> dict[str, Path]:
    """The folders inside `root` that are its parts, "train", "val" and "test", by what they are called.

    The usual words of `PARTS` count in any case; of two for one part the first of them.
    """
    folders = {entry.name.lower(): Path(entry.path) for entry in _in_order(root) if entry.is_dir()}
    found = {part: [folders[word] for word in words if word in folders] for part, words in PARTS.items()}
    return {part: own[0] for part, own in found.items() if own}


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
