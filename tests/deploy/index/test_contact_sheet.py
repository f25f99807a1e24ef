"""A contact sheet shows each image that is found, and says which are gone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miniclip.deploy.index import Index
from miniclip.deploy.index.contact_sheet import draw_sheet
from miniclip.errors import UserError
from tests.data.conftest import encoded, lying
from tests.deploy.index.projection import embed, normalized


def test_a_sheet_shows_the_images(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    colors = [(250, 30, 30), (30, 250, 30), (30, 30, 250)]
    for number, color in enumerate(colors):
        Image.new("RGB", (90, 60), color).save(photos / f"{number} Größe 犬.png")
    embed(tmp_path / "index", photos)
    queries = normalized(np.random.default_rng(0).standard_normal((2, 24)))
    found = Index(tmp_path / "index").search(queries, k=3)
    (photos / "2 Größe 犬.png").unlink()
    draw_sheet(["words " * 80, "a\nline"], found, tmp_path / "sheet.png")

    with Image.open(tmp_path / "sheet.png") as sheet:
        shown = {color: count for count, color in sheet.getcolors(10**6)}
    assert shown[colors[0]] > 10_000 and shown[colors[1]] > 10_000 and colors[2] not in shown


def test_a_sheet_shows_rotated_photos_upright(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels)
    sheets = []
    for name, content in (("upright", encoded(photo, "PNG")), ("rotated", lying(photo))):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "photo.png").write_bytes(content)
        embed(tmp_path / f"index of {name}", folder)
        found = Index(tmp_path / f"index of {name}").search(np.ones((1, 24), np.float32), k=1)
        draw_sheet(["words"], found, tmp_path / f"{name}.png")
        sheets.append(Image.open(tmp_path / f"{name}.png"))
    assert sheets[0] == sheets[1]


@pytest.mark.parametrize(("num_queries", "k", "height"), [(210, 10, "129,376"), (400, 1, "134,416")])
def test_a_sheet_that_is_too_high_is_told(
    photos: Path, tmp_path: Path, num_queries: int, k: int, height: str
) -> None:
    embed(tmp_path / "index", photos)
    found = Index(tmp_path / "index").search(np.ones((num_queries, 24), np.float32), k=k)
    why = rf"images would be {height} pixels high, and may be 120,000\. Take a smaller -k"
    with pytest.raises(UserError, match=why):
        draw_sheet(["words"] * num_queries, found, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()
