"""What the sets of photographs have in common: one folder, and a split that somebody published."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from miniclip.data.sources.base import FolderSource
from miniclip.data.sources.captions import Captions, seeded_split, split_of_files
from miniclip.data.sources.walk import is_visible
from miniclip.data.split import Split
from miniclip.errors import SettingError, counted

log = logging.getLogger(__name__)

PARTS = ("train", "val", "test")


class Photographs(FolderSource):
    """Photographs with captions below one folder, in any layout the data set is public in.

    A published split is used whole: training, validation and test part. Where there is none, a seeded
    fraction of the images validates.
    """

    split_file: ClassVar[str]

    def _split(self, name: str, captions: Captions, images: Path) -> Split:
        return split_of_files(
            name, captions, images, decode_size=self.decode_size, skips_missing=self.skips_broken
        )

    def _splits(self, parts: Mapping[str, Captions], images: Mapping[str, Path]) -> tuple[Split, ...]:
        """The splits of published parts, whose images lie in these folders.

        Raises:
            UserError: when no image trains.
        """
        if not parts.get("train"):
            raise SettingError("root", self.root, "holds a published split without training images")
        for part in parts.keys() - set(PARTS):
            num_images = counted(len(parts[part]), "image")
            log.warning("Left out %s of the part %r: parts are %s.", num_images, part, ", ".join(PARTS))

        if not parts.get("val"):
            train, val = seeded_split(parts["train"], val_fraction=self.val_fraction, seed=self.split_seed)
            splits = [("train", train, images["train"]), ("seeded val", val, images["train"])]
        else:
            splits = [(part, parts[part], images[part]) for part in ("train", "val")]
        if parts.get("test"):
            splits.append(("test", parts["test"], images["test"]))
        return tuple(self._split(*split) for split in splits)

    def _find(self, name: str) -> Path | None:
        """A file of the root or of a folder in it, as the archives of texts have one."""
        path = self.root / name
        return path if path.is_file() else only_one(self.root.glob(f"*/{name}"))


def only_one(paths: Iterable[Path]) -> Path | None:
    """The first of some files by name, None where there are none; others are told, as they are not read."""
    found = sorted(paths)
    for other in found[1:]:
        log.warning("%s is not read, as %s is there, too.", other, found[0])
    return found[0] if found else None


def holds_jpegs(folder: Path) -> bool:
    """Whether JPEG files of the user's lie in a folder, and not only below it."""
    if not folder.is_dir():
        return False
    jpegs = (path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    return any(is_visible(path.name) and path.is_file() for path in jpegs)
