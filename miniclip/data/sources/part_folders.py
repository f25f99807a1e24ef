"""Folders that divide a set into its published parts."""

import logging
from collections.abc import Collection
from pathlib import Path

from miniclip.data.sources.rows import PARTS
from miniclip.data.sources.walk import examples, find_images, is_visible, readable_endings

log = logging.getLogger(__name__)


def part_folders(root: Path) -> dict[str, Path]:
    """The folders inside `root` that are its parts, "train", "val" and "test", by what they are called.

    The usual words of `PARTS` count in any case; of two for one part the first of them.
    """
    folders = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    found = {part: [folders[word] for word in words if word in folders] for part, words in PARTS.items()}
    return {part: own[0] for part, own in found.items() if own}


def tell_what_is_in_no_part(root: Path, parts: Collection[Path]) -> None:
    """Warn of the images that lie beside the folders of the parts, for these are not read."""
    beside = [path for path in sorted(root.iterdir()) if is_visible(path.name) and path not in parts]
    holds_images = [
        path.name
        for path in beside
        if (find_images(path, root=root) if path.is_dir() else path.suffix.lower() in readable_endings())
    ]
    if holds_images:
        log.warning(
            "%s: divided by its folders %s; the images beside them are left out: %s.",
            root,
            ", ".join(path.name for path in parts),
            examples(holds_images),
        )
