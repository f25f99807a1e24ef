"""A folder of images, each with a text file of its captions beside it."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from miniclip.data.images import ImageFiles
from miniclip.data.sources.base import FolderSource
from miniclip.data.sources.caption_cells import checked_text
from miniclip.data.sources.captions import Captions, seeded_split
from miniclip.data.sources.part_folders import (
    PartWords,
    part_folders,
    tell_parts_that_train,
    tell_what_is_in_no_part,
)
from miniclip.data.sources.text_files import lines_of, read_text
from miniclip.data.sources.walk import examples, images_of, visible_files
from miniclip.data.split import Split
from miniclip.errors import SettingError, UserError, counted

log = logging.getLogger(__name__)


class Folder(FolderSource):
    """`dog.jpg` and `dog.txt` side by side, anywhere below one folder; one caption per line.

    With folders `train` and `val` or `test` inside, these are the splits.

    Args:
        part_words: what they may be called: "usual", as in `training` and `Valid`, or "exact", as above.
            Configs from before this setting meant that.
        folder_settings: see `FolderSource`.
    """

    def __init__(self, *, part_words: PartWords = "exact", **folder_settings: Any):
        super().__init__(**folder_settings)
        self.part_words = part_words

    def splits(self) -> tuple[Split, ...]:
        parts = part_folders(self.root, self.part_words, exact=("train", "val", "test"))
        if self.eval_split is None:  # configs of before this setting took no notice of a folder test
            parts.pop("test", None)
        if "train" not in parts and self.use != "all":
            tell_parts_that_train(self.root, parts.values())
        if "train" not in parts or len(parts) == 1:
            return self._seeded(self.root)

        tell_what_is_in_no_part(self.root, parts.values())
        published = {part: folder for part, folder in parts.items() if part != "train" or "val" in parts}
        splits = [self._split(part, self._captions(folder), folder) for part, folder in published.items()]
        return tuple(splits) if "val" in parts else (*self._seeded(parts["train"]), *splits)

    def _seeded(self, root: Path) -> tuple[Split, Split]:
        captions = self._captions(root)
        train, val = seeded_split(captions, val_fraction=self.val_fraction, seed=self.split_seed)
        return self._split("train", train, root), self._split("seeded val", val, root)

    def _split(self, name: str, captions: Captions, folder: Path) -> Split:
        """A split of images that the walk has found, so that no file needs a second look."""
        names = list(captions)
        images = ImageFiles(folder, names, decode_size=self.decode_size)
        return Split(name, names, images, captions.values())

    def _captions(self, folder: Path) -> Captions:
        files = visible_files(folder, root=self.root)
        images = images_of(files, folder)
        texts = _texts_by_stem(files, folder)

        captions: dict[str, list[str]] = {}
        for name in images:
            text = texts.get(os.path.splitext(name)[0])
            captions[name] = [] if text is None else _captions_in(folder / text)

        captioned = {name: lines for name, lines in captions.items() if lines}
        self._check_uncaptioned(folder, [name for name in images if name not in captioned], len(images))
        return captioned

    def _check_uncaptioned(self, folder: Path, names: Sequence[str], num_images: int) -> None:
        """Count the images without a caption aloud, or stop at them.

        Raises:
            UserError: when no image has a caption, or more lack one than `max_broken_fraction` allows.
        """
        if len(names) == num_images:
            example = f"; {names[0]} has no {Path(names[0]).stem}.txt with a caption in it" if names else ""
            raise SettingError("root", folder, f"holds no image with a text file beside it{example}")
        if not names:
            return

        which = f"{folder}: {len(names):,} of {counted(num_images, 'image')} without captions in a .txt"
        allowed = self.max_broken_fraction if self.skips_broken else 0.0
        if len(names) > allowed * num_images:
            limit = f", more than data.max_broken_fraction={allowed:g}" if self.skips_broken else ""
            fix = "" if self.skips_broken else ", or leave them out with data.on_broken_image=skip"
            raise UserError(
                f"{which} beside them{limit}: {examples(names)}. Write a {Path(names[0]).stem}.txt with "
                f"one caption per line, move the images elsewhere{fix}."
            )
        log.warning("%s beside them left out: %s", which, examples(names))


def _captions_in(path: Path) -> list[str]:
    """The lines of a text that are not empty."""
    stripped = [line.strip() for line in lines_of(read_text(path))]
    return [checked_text(line, path) for line in stripped if line]


def _texts_by_stem(names: Iterable[str], folder: Path) -> Mapping[str, str]:
    """Names of the `.txt` files by what stands before their ending, which may be in any case.

    Raises:
        UserError: when two files differ in the case of their ending alone.
    """
    texts: dict[str, str] = {}
    for name in names:
        stem, ending = os.path.splitext(name)
        if ending.lower() != ".txt":
            continue
        if stem in texts:
            raise UserError(
                f"{folder} holds both {texts[stem]} and {name}, and captions are read from one of them. "
                "Join them or remove one."
            )
        texts[stem] = name
    return texts
