"""Flickr8k and Flickr30k: a folder of photographs and five captions each."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from miniclip.data.captions import Captions, group_by_image, seeded_split, split_of_files
from miniclip.data.dataset import Source, Split, existing_path
from miniclip.data.table import read_table
from miniclip.errors import SettingError, UserError

TOKEN_LINE = re.compile(r"^(?P<image>.+?)#\d+\t(?P<caption>.*)$")


class Flickr(Source):
    """Photographs with captions below one folder.

    With Karpathy's split file (Karpathy & Li 2015) in the folder its training and validation parts are
    used; without it a seeded share of the images validates, and the split is named "seeded val".

    Args:
        root: the folder with the captions file and the image folder.
        val_fraction: share of the images that validate where there is no split file.
        split_seed: seed of that choice.
        source_settings: see `Source`.

    Raises:
        SettingError: when `root` is no folder, or lacks captions or images.
    """

    split_file: ClassVar[str]
    caption_files: ClassVar[tuple[str, ...]]
    image_folders: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        *,
        root: str,
        val_fraction: float,
        split_seed: int,
        image_size: int,
        crop_scale: Sequence[float],
        flip: bool,
        limit: int | None,
        seed: int,
    ):
        super().__init__(image_size=image_size, crop_scale=crop_scale, flip=flip, limit=limit, seed=seed)
        if not 0 < val_fraction < 1:
            raise SettingError("val_fraction", val_fraction, "must lie between 0 and 1")
        self.root = existing_path("root", root, kind="folder")
        self.val_fraction = val_fraction
        self.split_seed = split_seed

    def splits(self) -> tuple[Split, Split]:
        images = self._image_folder()
        karpathy = self.root / self.split_file
        if karpathy.is_file():
            parts = read_karpathy(karpathy)
            train, val, val_name = parts["train"], parts["val"], "val"
        else:
            train, val = seeded_split(
                self._captions(), val_fraction=self.val_fraction, seed=self.split_seed
            )
            val_name = "seeded val"
        return (
            split_of_files("train", train, images, decode_size=self.decode_size),
            split_of_files(val_name, val, images, decode_size=self.decode_size),
        )

    def _captions(self) -> Captions:
        for name in self.caption_files:
            path = self.root / name
            if path.is_file():
                is_token_file = path.suffix == ".token" or path.name.endswith(".token.txt")
                return group_by_image(read_token_file(path) if is_token_file else read_table(path), path)
        wanted = ", ".join([self.split_file, *self.caption_files])
        raise SettingError("root", self.root, f"holds none of the captions files {wanted}")

    def _image_folder(self) -> Path:
        for name in self.image_folders:
            for folder in (self.root / name, self.root / name / name):
                if any(folder.glob("*.jpg")):
                    return folder
        if any(self.root.glob("*.jpg")):
            return self.root
        wanted = ", ".join(self.image_folders)
        raise SettingError("root", self.root, f"holds no image folder with .jpg files ({wanted})")


class Flickr8k(Flickr):
    """Flickr8k (Hodosh et al. 2013): 8,091 photographs."""

    split_file = "dataset_flickr8k.json"
    caption_files = ("captions.txt", "Flickr8k.token.txt")
    image_folders = ("Images", "Flicker8k_Dataset", "Flickr8k_Dataset", "images")


class Flickr30k(Flickr):
    """Flickr30k (Young et al. 2014): 31,783 photographs."""

    split_file = "dataset_flickr30k.json"
    caption_files = ("results_20130124.token", "results.csv", "captions.txt")
    image_folders = ("flickr30k-images", "flickr30k_images", "Images", "images")


def read_token_file(path: Path) -> Iterator[tuple[str, str]]:
    """Rows of the original layout, `name.jpg#0<tab>caption`, as (image name, caption)."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            match = TOKEN_LINE.match(line.rstrip("\r\n"))
            if match is None:
                raise UserError(f"{path}, line {number}: not of the form NAME#NUMBER<tab>CAPTION.")
            yield match["image"], match["caption"]


def read_karpathy(path: Path) -> Mapping[str, Captions]:
    """Captions by split from Karpathy's JSON; its part "restval" counts as training."""
    parts: dict[str, dict[str, list[str]]] = defaultdict(dict)
    try:
        for image in json.loads(path.read_text(encoding="utf-8"))["images"]:
            part = "train" if image["split"] == "restval" else image["split"]
            captions = [sentence["raw"] for sentence in image["sentences"]]
            parts[part][image["filename"]] = captions
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not Karpathy's split file ({error!r}).") from None
    return parts
