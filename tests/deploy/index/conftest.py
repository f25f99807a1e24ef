"""Photos to index, and what an index holds."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miniclip.deploy.index import Index
from miniclip.deploy.index.database import reading
from miniclip.deploy.index.reader import all_entries
from miniclip.deploy.index.vectors import VectorFile
from tests.deploy.index.projection import ProjectionModel


def save_photo(path: Path, seed: int) -> Path:
    """A small image of its own, and its path."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of ten photos, some of them in folders."""
    folder = tmp_path / "photos"
    for number in range(10):
        save_photo(folder / ("" if number % 2 else "trip") / f"{number}.png", number)
    return folder


def vectors_by_name(folder: Path) -> dict[str, np.ndarray]:
    """All that an index holds: the vector of each image."""
    with reading(folder) as connection:
        facts = Index(folder).facts
        entries = all_entries(connection)
        vectors = VectorFile(folder, facts.generation, facts.embed_dim).mapped()
        return {str(entry): vectors[slot].astype(np.float32) for slot, entry in entries.items()}


def expected_vectors(photos: Path, *, model: ProjectionModel | None = None) -> dict[str, np.ndarray]:
    """What an index of a folder should hold, computed image by image."""
    model = model or ProjectionModel()
    vectors = {}
    for path in sorted(photos.rglob("*.png")):
        with Image.open(path) as image:
            pixels = model.preprocess(image.convert("RGB"))
        vectors[str(path)] = model.encode_image(pixels[None])[0]
    return vectors


def assert_holds(folder: Path, expected: dict[str, np.ndarray]) -> None:
    """An index holds just these vectors, but for the rounding of float16."""
    held = vectors_by_name(folder)
    assert held.keys() == expected.keys()
    for name, vector in expected.items():
        np.testing.assert_allclose(held[name], vector, atol=1e-3, err_msg=name)
