"""Where the images of photographs are looked for."""

from pathlib import Path

import numpy as np
from PIL import Image

from miniclip import data
from tests.data.sources.conftest import SEEDED, five_captions, put_images, sizes


def test_a_folder_of_hidden_files_is_no_image_folder(root: Path, picture_folder: Path) -> None:
    (root / "Images").mkdir()
    (root / "Images" / "._0.jpg").write_bytes(b"what macOS leaves")
    put_images(picture_folder, root / "images")
    lines = [f"{i}.jpg#0\t{five_captions(i)[0]}\n" for i in range(12)]
    (root / "results_20130124.token").write_text("".join(lines))
    assert sizes(data.Flickr30k(root=str(root), **SEEDED)) == ("seeded val", 9, 3)


def test_thirty_thousand_images_are_listed_in_seconds(root: Path) -> None:
    """The time itself is in experiments/LOG.md; here only that listing does not ask file by file."""
    folder = root / "Images"
    folder.mkdir()
    Image.fromarray(np.zeros((40, 40, 3), dtype=np.uint8)).save(folder / "0.jpg")
    for i in range(1, 3000):
        (folder / f"{i}.jpg").hardlink_to(folder / "0.jpg")
    (root / "Flickr8k.token.txt").write_text("".join(f"{i}.jpg#0\tpicture {i}\n" for i in range(3000)))
    train, val = data.Flickr8k(root=str(root), **SEEDED).datasets()
    assert len(train) + len(val) == 3000
