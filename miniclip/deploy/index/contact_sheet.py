"""What a search finds as one picture: a row of queries, and below each its images with their scores."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from miniclip.data.image_content import decode_without_torch
from miniclip.deploy.index.reader import Entry, Found
from miniclip.errors import BrokenImage, UserError, counted
from miniclip.files import replacing

COLUMNS = 5
CELL = 220
"""Side of the square that holds an image, pixels."""

HIGHEST = 120_000
"""Pixels of a sheet, which takes 430 MB then; of one query it shows 2,100 images."""

GAP = 16
CAPTION = 44
HEADING = 56

PAPER, CARD, INK, FAINT = "#f5f5f3", "#ffffff", "#1c1c1a", "#75756f"


def draw_sheet(titles: Sequence[str], found: Found, path: Path) -> None:
    """Write a PNG with a section for each query.

    Args:
        titles: how each query is called.

    Raises:
        UserError: when what is found makes it higher than `HIGHEST`.
    """
    most = max((len(entries) for entries in found.entries), default=0)
    columns = max(1, min(COLUMNS, most))
    width = max(columns, 3) * (CELL + GAP) + GAP
    heights = [_height(len(entries), columns) for entries in found.entries]
    whole_height = sum(heights) + GAP
    if whole_height > HIGHEST:
        num_images = sum(map(len, found.entries))
        raise UserError(
            f"The sheet {path} of {counted(num_images, 'image')} would be {whole_height:,} pixels high, "
            f"and may be {HIGHEST:,}. Take a smaller -k, a higher --threshold, or fewer queries."
        )
    sheet = Image.new("RGB", (width, whole_height), PAPER)

    top = 0
    for title, scores, entries, height in zip(titles, found.scores, found.entries, heights, strict=True):
        draw = ImageDraw.Draw(sheet)
        draw.text((GAP, top + 18), _fitting(title, 22, width - 2 * GAP), INK, font=_font(22))
        if not entries:
            draw.text((GAP, top + HEADING), "nothing found", FAINT, font=_font(15))
        for number, (score, entry) in enumerate(zip(scores, entries, strict=True)):
            row, column = divmod(number, columns)
            place = GAP + column * (CELL + GAP), top + HEADING + row * (CELL + CAPTION + GAP)
            _draw_card(sheet, place, float(score), entry)
        top += height
    with replacing(path, "wb") as file:
        sheet.save(file, format="PNG")


def _height(count: int, columns: int) -> int:
    """Pixels that a query with so many images takes."""
    num_rows = max(1, -(-count // columns))
    return HEADING + num_rows * (CELL + CAPTION + GAP)


def _draw_card(sheet: Image.Image, place: tuple[int, int], score: float, entry: Entry) -> None:
    """An image in the middle of its square, and below it the score and the name."""
    left, top = place
    draw = ImageDraw.Draw(sheet)
    draw.rounded_rectangle((left, top, left + CELL, top + CELL + CAPTION), 8, fill=CARD)

    try:
        image = decode_without_torch(entry.content(), str(entry), decode_size=CELL)
    except BrokenImage as error:
        why = "no longer there" if error.reason == "missing" else "cannot be read"
        why = why if entry.may_open else "not opened"
        draw.text((left + 12, top + CELL // 2), why, FAINT, font=_font(15))
    else:
        image = ImageOps.contain(image, (CELL - 16, CELL - 16))
        corner = left + (CELL - image.width) // 2, top + (CELL - image.height) // 2
        sheet.paste(image, corner)

    name = entry.title or (entry.path.name if entry.row is None else f"row {entry.row}")
    draw.text((left + 12, top + CELL + 2), f"{score:.3f}", INK, font=_font(16))
    draw.text((left + 12, top + CELL + 22), _fitting(name, 13, CELL - 24), FAINT, font=_font(13))


def _fitting(text: str, size: int, width: int) -> str:
    """A text on one line, cut to a width in pixels."""
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    if _font(size).getlength(line) <= width:
        return line
    while line and _font(size).getlength(f"{line}...") > width:
        line = line[:-1]
    return f"{line}..."


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu, which matplotlib brings and which knows many alphabets, else Pillow's own."""
    found = importlib.util.find_spec("matplotlib")
    if found is not None and found.origin is not None:
        path = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(path, size)
    return ImageFont.load_default(size)
