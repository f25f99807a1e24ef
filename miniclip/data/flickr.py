"""Flickr8k, Flickr30k and COCO captions: a folder of photographs and five captions each."""

import csv
import io
import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from miniclip.data.captions import Captions, group_by_image, seeded_split, split_of_files
from miniclip.data.columns import captions_of_cell
from miniclip.data.dataset import FolderSource, Split
from miniclip.data.table import read_table
from miniclip.data.text_files import open_text, read_text
from miniclip.errors import SettingError, UserError

log = logging.getLogger(__name__)

TOKEN_LINE = re.compile(r"^(?P<image>.+?)#\d+\t(?P<caption>.*)$")
RESULTS_LINE = re.compile(r"^(?P<image>[^|]+)\|\s*\d+\s*(?P<separator>\|)?\s*(?P<caption>.*)$")


class Photographs(FolderSource):
    """Photographs with captions below one folder, in any layout the data set is public in."""

    image_folders: ClassVar[tuple[str, ...]]

    def _split(self, name: str, captions: Captions, images: Path) -> Split:
        return split_of_files(
            name, captions, images, decode_size=self.decode_size, skips_missing=self.skips_broken
        )

    def _image_folder(self, names: Sequence[str]) -> Path:
        """Where the public archives put the pictures: a folder of one of the names, or the same within."""
        for name in names:
            for folder in (self.root / name, self.root / name / name):
                if _holds_jpegs(folder):
                    return folder
        if _holds_jpegs(self.root):
            return self.root
        raise SettingError("root", self.root, f"holds no image folder with .jpg files ({', '.join(names)})")


class Flickr(Photographs):
    """Flickr with Karpathy's split file (Karpathy & Li 2015), or captions with or without split lists.

    Args:
        eval_split: which part of the published split is evaluated on; papers report on "test".
        folder_settings: see `FolderSource`.

    Raises:
        SettingError: when the folder does not hold what it should, or no such part.
    """

    split_file: ClassVar[str]
    caption_files: ClassVar[tuple[str, ...]]
    split_lists: ClassVar[Mapping[str, str]] = {}

    def __init__(self, *, eval_split: Literal["val", "test"] = "val", **folder_settings: Any):
        super().__init__(**folder_settings)
        self.eval_split = eval_split

    def splits(self) -> tuple[Split, Split]:
        images = self._image_folder(self.image_folders)
        parts, name = self._published(), self.eval_split
        if not parts and name == "val":
            train, val = seeded_split(
                self._captions(), val_fraction=self.val_fraction, seed=self.split_seed
            )
            return self._split("train", train, images), self._split("seeded val", val, images)
        if name not in parts:
            raise SettingError("eval_split", name, f"is no part of a split in {self.root}")
        return self._split("train", parts.get("train", {}), images), self._split(name, parts[name], images)

    def _published(self) -> Mapping[str, Captions]:
        """The parts of the published split that lies in the folder; none where there is none."""
        karpathy = self.root / self.split_file
        if karpathy.is_file():
            return read_karpathy(karpathy)
        hugging_face = self.root / "flickr_annotations_30k.csv"
        if hugging_face.is_file():
            return read_hugging_face(hugging_face)
        lists = {part: self.root / file for part, file in self.split_lists.items()}
        if not lists or not (lists["train"].is_file() and lists["val"].is_file()):
            return {}
        captions = self._captions()
        return {part: self._listed(captions, path) for part, path in lists.items() if path.is_file()}

    def _listed(self, captions: Captions, path: Path) -> Captions:
        names = read_text(path).split()
        for name in names:
            if name not in captions:
                raise UserError(f"{path} names {name}, which has no captions.")
        return {name: captions[name] for name in names}

    def _captions(self) -> Captions:
        for name in self.caption_files:
            path = self.root / name
            if path.is_file():
                if ".token" in path.suffixes:
                    rows = read_token_file(path)
                elif path.name == "results.csv":
                    rows = read_results(path)
                else:
                    rows = read_table(path)
                return group_by_image(rows, path)
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


class CocoCaptions(Photographs):
    """COCO captions (Chen et al. 2015, arXiv 1504.00325): `captions_*.json` as published.

    Its own training and validation parts are used; with the training file alone a seeded share of it
    validates.
    """

    image_folders = ("train2017", "val2017", "train2014", "val2014")

    def splits(self) -> tuple[Split, Split]:
        files = {
            part: next(iter(sorted(self.root.glob(f"**/captions_{part}*.json"), reverse=True)), None)
            for part in ("train", "val")
        }
        if files["train"] is None:
            raise SettingError("root", self.root, "holds no captions_train*.json")
        train, val = (None if path is None else read_coco(path) for path in files.values())
        assert train is not None
        folders = [path.stem.removeprefix("captions_") for path in files.values() if path is not None]
        images = self._image_folder(folders[:1])
        if val is None:
            train, val = seeded_split(train, val_fraction=self.val_fraction, seed=self.split_seed)
            return self._split("train", train, images), self._split("seeded val", val, images)
        return (
            self._split("train", train, images),
            self._split("val", val, self._image_folder(folders[1:])),
        )


def read_coco(path: Path) -> Captions:
    """Captions of a `captions_*.json`, by file name; images without a caption are left out."""
    text = read_text(path)
    try:
        content = json.loads(text)
        names = {image["id"]: image["file_name"] for image in content["images"]}
        cells = [(names[row["image_id"]], row["caption"]) for row in content["annotations"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no COCO captions file ({error!r}).") from None
    return group_by_image(_rows(cells, path), path)


def read_results(path: Path) -> Iterator[tuple[str, str]]:
    """Rows of `results.csv`, `name| number| caption`, as (image name, caption).

    In the published file one row lacks its second separator; such rows are mended, and counted aloud.
    """
    num_mended = 0
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip() or (number == 1 and line.startswith("image_name")):
                continue
            match = RESULTS_LINE.match(line.rstrip("\r\n"))
            if match is None:
                raise UserError(f"{path}, line {number}: not of the form NAME| NUMBER| CAPTION.")
            num_mended += match["separator"] is None
            yield match["image"].strip(), match["caption"]
    if num_mended:
        log.warning("%s: the missing separator of %d row was put in.", path, num_mended)


def read_hugging_face(path: Path) -> Mapping[str, Captions]:
    """Captions by split from `flickr_annotations_30k.csv`, whose column `raw` holds JSON lists."""
    parts: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    text = read_text(path)
    try:
        for row in csv.DictReader(io.StringIO(text, newline="")):
            parts[row["split"]].append((row["filename"], json.loads(row["raw"])))
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is not Hugging Face's table of Flickr30k ({error!r}).") from None
    return {part: group_by_image(_rows(cells, path), path) for part, cells in parts.items()}


def read_token_file(path: Path) -> Iterator[tuple[str, str]]:
    """Rows of the original layout, `name.jpg#0<tab>caption`, as (image name, caption)."""
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            match = TOKEN_LINE.match(line.rstrip("\r\n"))
            if match is None:
                raise UserError(f"{path}, line {number}: not of the form NAME#NUMBER<tab>CAPTION.")
            yield match["image"], match["caption"]


def read_karpathy(path: Path) -> Mapping[str, Captions]:
    """Captions by split from Karpathy's JSON; its part "restval" counts as training."""
    parts: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    text = read_text(path)
    try:
        for image in json.loads(text)["images"]:
            part = "train" if image["split"] == "restval" else image["split"]
            captions = [sentence["raw"] for sentence in image["sentences"]]
            parts[part].append((image["filename"], captions))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not Karpathy's split file ({error!r}).") from None
    return {part: group_by_image(_rows(cells, path), path) for part, cells in parts.items()}


def _rows(cells: Iterable[tuple[str, Any]], path: Path) -> Iterator[tuple[str, str]]:
    """(image name, caption) from (image name, whatever the file holds for its captions)."""
    for name, cell in cells:
        for caption in captions_of_cell(cell, f"{path}, image {name}"):
            yield name, caption


def _holds_jpegs(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix.lower() in (".jpg", ".jpeg") for path in folder.iterdir())
