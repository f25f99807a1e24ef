"""Flickr8k, Flickr30k and COCO captions: a folder of photographs and five captions each."""

import csv
import io
import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from miniclip.data.dataset import FolderSource, Split
from miniclip.data.sources.captions import Captions, group_by_image, seeded_split, split_of_files
from miniclip.data.sources.columns import captions_of_cell
from miniclip.data.sources.table import read_table
from miniclip.data.sources.text_files import open_text, read_text
from miniclip.data.sources.walk import is_visible
from miniclip.errors import SettingError, UserError, counted

log = logging.getLogger(__name__)

PARTS = ("train", "val", "test")

TOKEN_LINE = re.compile(r"^(?P<image>.+?)#\d+\t(?P<caption>.*)$")
RESULTS_LINE = re.compile(r"^(?P<image>[^|]+)\|\s*\d+\s*(?P<separator>\|)?\s*(?P<caption>.*)$")


class Photographs(FolderSource):
    """Photographs with captions below one folder, in any layout the data set is public in.

    A published split is used whole: training, validation and test part. Where there is none, a seeded
    share of the images validates.
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
        return path if path.is_file() else next(iter(sorted(self.root.glob(f"*/{name}"))), None)


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
                if _holds_jpegs(folder):
                    return folder
        if _holds_jpegs(self.root):
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
        lists = {part: self._find(file) for part, file in self.split_lists.items()}
        if lists.get("train") is None or lists.get("val") is None:
            return {}
        captions = self._captions()
        return {part: self._listed(captions, path) for part, path in lists.items() if path is not None}

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
    """COCO captions (Chen et al. 2015, arXiv 1504.00325) with Karpathy's split or as published.

    With Karpathy's `dataset_coco.json` (Karpathy & Li 2015) its 5,000 test images, which papers report
    on, are the test part. Else `captions_*.json` are read: of several years the newest one with images;
    with the training file alone a seeded share of it validates.
    """

    split_file = "dataset_coco.json"

    def splits(self) -> tuple[Split, ...]:
        karpathy = self._find(self.split_file)
        years = self._years()
        # configs of before `eval_split` never meant Karpathy's file
        if karpathy is not None and not (years and self.eval_split is None):
            parts = read_karpathy(karpathy)
            first = next(name for captions in parts.values() for name in captions)
            return self._splits(parts, dict.fromkeys(PARTS, self._home_of(first)))
        if not years:
            wanted = f"holds neither captions_train*.json nor {self.split_file}"
            raise SettingError("root", self.root, wanted)

        for year in years:
            folder = self._image_folder(f"train{year}")
            if folder is not None:
                return self._of_year(year, folder)
        names = ", ".join(f"train{year}" for year in years)
        raise SettingError("root", self.root, f"holds no image folder with .jpg files ({names})")

    def _years(self) -> list[str]:
        """Years of the training captions, newest first."""
        names = {path.stem for path in self.root.glob("**/captions_train*.json")}
        return sorted((name.removeprefix("captions_train") for name in names), reverse=True)

    def _of_year(self, year: str, train_folder: Path) -> tuple[Split, ...]:
        """The published parts of one year."""
        parts, images = {}, {"train": train_folder}
        for part in ("train", "val"):
            path = next(iter(sorted(self.root.glob(f"**/captions_{part}{year}.json"))), None)
            if path is not None:
                parts[part] = read_coco(path)
        if "val" in parts:
            folder = self._image_folder(f"val{year}")
            if folder is None:
                name = f"val{year}"
                raise SettingError("root", self.root, f"holds no image folder with .jpg files ({name})")
            images["val"] = folder
        return self._splits(parts, images)

    def _image_folder(self, name: str) -> Path | None:
        """The folder of a part's images: below the root or its folder images, or the same within."""
        for home in self._homes():
            for folder in (home / name, home / name / name):
                if _holds_jpegs(folder):
                    return folder
        return self.root if _holds_jpegs(self.root) else None

    def _homes(self) -> list[Path]:
        return [self.root, self.root / "images"]

    def _home_of(self, name: str) -> Path:
        """The folder that names such as val2014/COCO_val2014_000000391895.jpg begin at."""
        folder = Path(name).parent
        for home in self._homes():
            if _holds_jpegs(home / folder):
                return home
        raise SettingError("root", self.root, f"holds no image folder with .jpg files ({folder})")


def _with_files(captions: Captions, images: Path) -> Captions:
    """Captions of what is named like an image, or lies there.

    The published captions of Flickr8k name a 2258277193_586949ec62.jpg.1 that exists nowhere.
    """
    kept = {
        name: own
        for name, own in captions.items()
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
        log.warning("%s: the missing separator of %s put in.", path, counted(num_mended, "row"))


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
    """Captions by split from Karpathy's JSON; its part "restval" counts as training.

    Names of COCO's images begin with their folder, "filepath".
    """
    parts: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    text = read_text(path)
    try:
        for image in json.loads(text)["images"]:
            part = "train" if image["split"] == "restval" else image["split"]
            captions = [sentence["raw"] for sentence in image["sentences"]]
            name = os.path.join(image.get("filepath", ""), image["filename"])
            parts[part].append((name, captions))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not Karpathy's split file ({error!r}).") from None
    return {part: group_by_image(_rows(cells, path), path) for part, cells in parts.items()}


def _rows(cells: Iterable[tuple[str, Any]], path: Path) -> Iterator[tuple[str, str]]:
    """(image name, caption) from (image name, whatever the file holds for its captions)."""
    for name, cell in cells:
        for caption in captions_of_cell(cell, f"{path}, image {name}"):
            yield name, caption


def _holds_jpegs(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    jpegs = (path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    return any(is_visible(path.name) and path.is_file() for path in jpegs)
