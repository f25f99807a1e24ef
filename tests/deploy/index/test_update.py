"""An index that follows its folder: after any changes it is the one that is made from scratch."""

import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miniclip.data.image_content import decode_without_torch, evaluated_size
from miniclip.errors import UserError
from tests.data.conftest import encoded, lying
from tests.deploy.index.conftest import assert_holds, expected_vectors, save_photo, vectors_by_name
from tests.deploy.index.projection import SIDE, ProjectionModel, embed


def test_it_holds_every_image(photos: Path, tmp_path: Path) -> None:
    changes = embed(tmp_path / "index", photos)
    assert (changes.new, changes.embedded, changes.removed) == (10, 10, 0)
    assert_holds(tmp_path / "index", expected_vectors(photos))


def test_a_jpeg_is_decoded_as_evaluation_does_it(tmp_path: Path) -> None:
    path = save_photo(tmp_path / "photos" / "a.png", 1)
    content = encoded(Image.open(path).resize((60, 40)))
    path.write_bytes(content)
    embed(tmp_path / "index", path.parent)

    decoded = decode_without_torch(content, "a photo", decode_size=evaluated_size(SIDE))
    model = ProjectionModel()
    assert_holds(tmp_path / "index", {str(path): model.encode_image(model.preprocess(decoded)[None])[0]})


def test_an_index_of_another_decoding_is_told_when_it_grows(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "index"
    embed(folder, photos)
    save_photo(photos / "new.png", 100)
    embed(folder, photos)
    assert not caplog.records

    with closing(sqlite3.connect(folder / "index.sqlite")) as connection:
        connection.execute("PRAGMA application_id = 0")  # as before it was kept
    embed(folder, photos)
    assert not caplog.records

    for number in (101, 102):  # the former images are still there
        save_photo(photos / f"{number}.png", number)
        caplog.clear()
        embed(folder, photos)
        assert "decoded at another scale" in caplog.text and str(folder) in caplog.text


def test_nothing_is_embedded_twice(photos: Path, tmp_path: Path) -> None:
    embed(tmp_path / "index", photos)
    changes = embed(tmp_path / "index", photos)
    assert (changes.embedded, changes.unchanged, changes.removed) == (0, 10, 0)


def test_it_follows_adds_edits_deletes_and_renames(photos: Path, tmp_path: Path) -> None:
    embed(tmp_path / "index", photos)
    save_photo(photos / "new.png", 100)
    save_photo(photos / "1.png", 101)
    (photos / "3.png").unlink()
    (photos / "5.png").rename(photos / "trip" / "five.png")
    changes = embed(tmp_path / "index", photos)
    assert (changes.new, changes.changed, changes.copied, changes.removed) == (1, 1, 1, 2)
    assert_holds(tmp_path / "index", expected_vectors(photos))


def test_two_images_that_change_places_are_told_apart(photos: Path, tmp_path: Path) -> None:
    embed(tmp_path / "index", photos)
    (photos / "1.png").rename(photos / "x.png")
    (photos / "3.png").rename(photos / "1.png")
    (photos / "x.png").rename(photos / "3.png")
    changes = embed(tmp_path / "index", photos)
    assert changes.embedded == 0
    assert_holds(tmp_path / "index", expected_vectors(photos))


def test_a_folder_in_another_one_is_that_ones(photos: Path, tmp_path: Path) -> None:
    assert embed(tmp_path / "index", photos / "trip").new
    changes = embed(tmp_path / "index", photos, photos / "trip")
    assert changes.part_of_another == [photos / "trip"] and changes.copied > 0
    assert_holds(tmp_path / "index", expected_vectors(photos))  # each image once

    assert embed(tmp_path / "index", photos / "trip").part_of_another == [photos / "trip"]
    assert_holds(tmp_path / "index", expected_vectors(photos))


def test_a_folder_that_another_one_does_not_show_is_its_own(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (photos / ".hidden").mkdir()
    (photos / "link").symlink_to(tmp_path / "elsewhere")
    save_photo(photos / ".hidden" / "a.png", 200)
    save_photo(photos / "link" / "b.png", 201)
    changes = embed(tmp_path / "index", photos, photos / ".hidden", photos / "link")
    assert changes.new == 12 and changes.part_of_another == []


@pytest.mark.parametrize("seed", range(3))
def test_after_random_changes_it_is_as_made_from_scratch(seed: int, photos: Path, tmp_path: Path) -> None:
    draw = random.Random(seed)
    for turn in range(8):
        for change in range(draw.randrange(1, 6)):
            change_something(photos, draw, seed=1000 * turn + change)
        embed(tmp_path / "index", photos, batch_size=draw.choice([1, 3, 16]))
        assert_holds(tmp_path / "index", expected_vectors(photos))


def change_something(photos: Path, draw: random.Random, *, seed: int) -> None:
    """Add, edit, remove, rename or copy an image, or rename a folder."""
    path = draw.choice(sorted(photos.rglob("*.png")))
    match draw.choice(["add", "edit", "remove", "rename", "copy", "folder"]):
        case "add":
            save_photo(photos / f"folder {seed % 3}" / f"{seed}.png", seed)
        case "edit":
            save_photo(path, seed)
        case "remove" if len(list(photos.rglob("*.png"))) > 3:
            path.unlink()
        case "rename":
            path.rename(path.with_name(f"renamed {seed}.png"))
        case "copy":
            shutil.copy2(path, photos / f"copy {seed}.png")
        case "folder" if path.parent != photos:
            path.parent.rename(photos / f"moved {seed}")


def test_free_slots_are_written_again(photos: Path, tmp_path: Path) -> None:
    embed(tmp_path / "index", photos)
    size = (next((tmp_path / "index").glob("vectors-*.f16"))).stat().st_size
    for number in (1, 3, 5):
        (photos / f"{number}.png").unlink()
    embed(tmp_path / "index", photos)
    for number in (21, 23, 25):
        save_photo(photos / f"{number}.png", number)
    embed(tmp_path / "index", photos)
    assert (next((tmp_path / "index").glob("vectors-*.f16"))).stat().st_size == size
    assert_holds(tmp_path / "index", expected_vectors(photos))


def test_a_file_of_mostly_free_slots_is_packed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miniclip.deploy.index.slots.MIN_FREE", 2)
    embed(tmp_path / "index", photos)
    (before,) = (tmp_path / "index").glob("vectors-*")
    shutil.rmtree(photos / "trip")
    embed(tmp_path / "index", photos)
    (file,) = (tmp_path / "index").glob("vectors-*")
    assert file != before and file.stat().st_size == 5 * 24 * 2
    assert_holds(tmp_path / "index", expected_vectors(photos))


def test_broken_images_are_left_out_and_tried_again_when_they_change(photos: Path, tmp_path: Path) -> None:
    expected = expected_vectors(photos)
    (photos / "broken.jpg").write_bytes(b"no image")
    changes = embed(tmp_path / "index", photos)
    assert changes.new == 10 and "is no image" in changes.broken[str(photos / "broken.jpg")]
    assert_holds(tmp_path / "index", expected)

    again = embed(tmp_path / "index", photos)
    assert again.embedded == 0 and again.broken == changes.broken

    save_photo(photos / "broken.jpg", 7)
    assert embed(tmp_path / "index", photos).broken == {}


def test_what_could_not_be_read_is_tried_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share that is away for a moment leaves file sizes and times as they were."""

    def away(path: Path) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", away)
        changes = embed(tmp_path / "index", photos)
    assert changes.new == 0 and all("Input/output error" in told for told in changes.broken.values())
    num_broken = len(changes.broken)
    changes = embed(tmp_path / "index", photos)
    assert (changes.new, changes.broken) == (num_broken, {})


def test_an_image_that_breaks_is_no_longer_found(photos: Path, tmp_path: Path) -> None:
    embed(tmp_path / "index", photos)
    (photos / "1.png").write_bytes(b"no image")
    assert list(embed(tmp_path / "index", photos).broken) == [str(photos / "1.png")]
    expected = expected_vectors_without(photos, "1.png")
    assert_holds(tmp_path / "index", expected)


def expected_vectors_without(photos: Path, name: str) -> dict:
    """What an index should hold, when one image cannot be read."""
    (photos / name).unlink()
    return expected_vectors(photos)


ODD_NAMES = (
    "über dem Fluß.png",
    "犬と雪.png",
    "e\u0301te\u0301.png",
    " leading and trailing .png",
    "line\nbreak.png",
    "quote'\"; DROP TABLE entries.png",
    "%41?#&.png",
    "-k.png",
    "🐶.png",
)


def test_a_rotated_photo_has_the_vector_of_the_upright_one(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    upright = Image.open(save_photo(tmp_path / "photos" / "upright.png", 0))
    (tmp_path / "photos" / "rotated.png").write_bytes(lying(upright))
    embed(tmp_path / "index", tmp_path / "photos")
    rotated, expected = vectors_by_name(tmp_path / "index").values()
    np.testing.assert_array_equal(rotated, expected)


def test_odd_names_are_names(tmp_path: Path) -> None:
    photos = tmp_path / "phötos ?#%"
    for number, name in enumerate(ODD_NAMES):
        save_photo(photos / name, number)
    save_photo(photos / os.fsdecode(b"latin-\xe9.png"), 50)  # which is no UTF-8
    index = tmp_path / "ïndex ?#%"
    embed(index, photos)
    assert embed(index, photos).embedded == 0
    assert_holds(index, expected_vectors(photos))


def test_several_folders_stay_apart(photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    save_photo(other / "1.png", 77)
    embed(tmp_path / "index", photos)
    embed(tmp_path / "index", other)
    assert_holds(tmp_path / "index", expected_vectors(photos) | expected_vectors(other))


def test_an_image_larger_than_allowed_is_refused(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miniclip.data.image_content.MAX_PIXELS", 47)
    changes = embed(tmp_path / "index", photos)
    assert len(changes.broken) == 10 and "decompression bomb" in changes.broken[str(photos / "1.png")]


def test_a_folder_without_images_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no images\.$"):
        embed(tmp_path / "index", tmp_path / "empty")
