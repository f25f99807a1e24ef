"""Flickr8k and Flickr30k: a folder of photographs and five captions each."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from miniclip.data.sources.caption_files import (
    read_hugging_face,
    read_karpathy,
    read_results,
    read_token_file,
)
from miniclip.data.sources.captions import Captions, group_by_image
from miniclip.data.sources.delimited import read_table
from miniclip.data.sources.photographs import PARTS, Photographs, holds_jpegs
from miniclip.data.sources.text_files import read_text
from miniclip.data.split import Split
from miniclip.errors import SettingError, UserError, counted

log = logging.getLogger(__name__)


class Flickr(Photographs):
    """Flickr with Karpathy's split file (Karpathy & Li 2015), or captions with or without split lists.

    Args:
        folder_settings: see `FolderSource`.

    Raises:
        SettingError: when the folder does not hold what it should.
    """

    caption_files: ClassVar[tuple[str, ...]]
    image_folders: ClassVar[tuple[str, ...]]
    split_lists: ClassVar[Mapping[str, str]] = {}

    def splits(self) -> tuple[Split, ...]:
        images = self._image_folder(self.image_folders)
        parts = self._published() or {"train": _with_files(self._captions(), images)}
        return self._splits(parts, dict.fromkeys(PARTS, images))

    def _image_folder(self, names: Sequence[str]) -> Path:
        """Where the public archives put the images: a folder of one of the names, or the same within."""
        for name in names:
            for folder in (self.root / name, self.root / name / name):
                if holds_jpegs(folder):
                    return folder
        if holds_jpegs(self.root):
            return self.root
        raise SettingError("root", self.root, f"holds no image folder with .jpg files ({', '.join(names)})")

    def _published(self) -> Mapping[str, Captions]:
        """The parts of the published split that lies in the folder; none where there is none."""
        karpathy = self._find(self.split_file)
        if karpathy is not None:
            return read_karpathy(karpathy)
        hugging_face = self._find("flickr_annotations_30k.csv")
        if hugging_face is not None:
            return read_hugging_face(hugging_face)

        found = {part: self._find(file) for part, file in self.split_lists.items()}
        lists = {part: path for part, path in found.items() if path is not None}
        if not lists:
            return {}
        if "train" not in lists:
            names = ", ".join(path.name for path in lists.values())
            wanted = f"holds {names} without {self.split_lists['train']}; add it, or take them away"
            raise SettingError("root", self.root, wanted)
        captions = self._captions()  # of all parts, in one file
        return {part: self._listed(captions, path) for part, path in lists.items()}

    def _listed(self, captions: Captions, path: Path) -> Captions:
        names = read_text(path).split()
        for name in names:
            if name not in captions:
                raise UserError(f"{path} names {name}, which has no captions.")
        return {name: captions[name] for name in names}

    def _captions(self) -> Captions:
        for name in self.caption_files:
            path = self._find(name)
            if path is not None:
                return group_by_image(_rows_of(path), path)
        wanted = ", ".join([self.split_file, *self.caption_files])
        raise SettingError("root", self.root, f"holds none of the captions files {wanted}")


class Flickr8k(Flickr):
    """Flickr8k (Hodosh et al. 2013): 8,091 photographs."""

    split_file = "dataset_flickr8k.json"
    caption_files = ("captions.txt", "Flickr8k.token.txt")
    image_folders = ("Images", "Flicker8k_Dataset", "Flickr8k_Dataset", "images")
    split_lists: ClassVar = {
        "train": "Flickr_8k.trainImages.txt",
        "val": "Flickr_8k.devImages.txt",
        "test": "Flickr_8k.testImages.txt",
    }


class Flickr30k(Flickr):
    """Flickr30k (Young et al. 2014): 31,783 photographs."""

    split_file = "dataset_flickr30k.json"
    caption_files = ("results_20130124.token", "results.csv", "captions.txt")
    image_folders = ("flickr30k-images", "flickr30k_images", "Images", "images")


def _rows_of(path: Path) -> Iterator[tuple[str, str]]:
    """Rows of a captions file as (image name, caption); its name tells of its format."""
    if ".token" in path.suffixes:
        return read_token_file(path)
    if path.name == "results.csv":
        return read_results(path)
    return read_table(path)


def _with_files(captions: Captions, images: Path) -> Captions:
    """Captions of what is named like an image, or lies there.

    The published captions of Flickr8k name a 2258277193_586949ec62.jpg.1 that exists nowhere.
    """
    kept = {
        name: texts
        for name, texts in captions.items()
        if name.lower().endswith((".jpg", ".jpeg", ".png")) or (images / name).is_file()
    }

    left_out = [name for name in captions if name not in kept]
    if left_out:
        log.warning(
            "Left out %d of %s that captions name: no such file, and no image's name (%s).",
            len(left_out),
            counted(len(captions), "image"),
            ", ".join(left_out[:3]),
        )
    return kept
