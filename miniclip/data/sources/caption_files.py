"""The files that captions of Flickr and COCO are published in."""

import csv
import io
import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from miniclip.data.sources.caption_cells import captions_of_cell
from miniclip.data.sources.captions import Captions, group_by_image
from miniclip.data.sources.text_files import open_text, read_text
from miniclip.errors import UserError, counted

log = logging.getLogger(__name__)

TOKEN_LINE = re.compile(r"^(?P<image>.+?)#\d+\t(?P<caption>.*)$")
RESULTS_LINE = re.compile(r"^(?P<image>[^|]+)\|\s*\d+\s*(?P<separator>\|)?\s*(?P<caption>.*)$")


def read_coco(path: Path) -> Captions:
    """Captions of a `captions_*.json`, by file name; images without a caption are left out."""
    text = read_text(path)  # whose own errors are told apart from those of its format
    try:
        content = json.loads(text)
        names = {image["id"]: image["file_name"] for image in content["images"]}
        cells = [(names[row["image_id"]], row["caption"]) for row in content["annotations"]]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no COCO captions file ({error!r}).") from None
    return group_by_image(_rows(cells, path), path)


def read_results(path: Path) -> Iterator[tuple[str, str]]:
    """Rows of `results.csv`, `name| number| caption`, as (image name, caption).

    In the published file one row lacks its second separator; such rows are completed, and counted aloud.
    """
    num_completed = 0
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip() or (number == 1 and line.startswith("image_name")):
                continue

            match = RESULTS_LINE.match(line.rstrip("\r\n"))
            if match is None:
                raise UserError(f"{path}, line {number}: not of the form NAME| NUMBER| CAPTION.")
            num_completed += match["separator"] is None
            yield match["image"].strip(), match["caption"]

    if num_completed:
        log.warning("%s: the missing separator of %s put in.", path, counted(num_completed, "row"))


def read_hugging_face(path: Path) -> Mapping[str, Captions]:
    """Captions by split from `flickr_annotations_30k.csv`, whose column `raw` holds JSON lists."""
    parts: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    text = read_text(path)
    try:
        # line ends within quotes belong to captions
        for row in csv.DictReader(io.StringIO(text, newline="")):
            parts[row["split"]].append((row["filename"], json.loads(row["raw"])))
    except (KeyError, TypeError, ValueError, RecursionError, csv.Error) as error:
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
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not Karpathy's split file ({error!r}).") from None
    return {part: group_by_image(_rows(cells, path), path) for part, cells in parts.items()}


def _rows(cells: Iterable[tuple[str, Any]], path: Path) -> Iterator[tuple[str, str]]:
    """(image name, caption) from (image name, whatever the file holds for its captions)."""
    for name, cell in cells:
        for caption in captions_of_cell(cell, f"{path}, image {name}"):
            yield name, caption
