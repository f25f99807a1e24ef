"""The embedded set: what is drawn, how it is split, how it is cached."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miniclip.config.compose import compose
from miniclip.config.instantiate import make
from miniclip.data import OpenMoji
from miniclip.data.sources import openmoji, openmoji_drawings
from miniclip.errors import SettingError
from tests.data.sources.conftest import part_ids


def source(cache_dir: Path, **changes: Any) -> OpenMoji:
    settings: dict[str, Any] = {
        "val_fraction": 0.1,
        "split_seed": 0,
        "cache_dir": str(cache_dir),
        "image_size": 32,
        "crop_scale": [0.7, 1.0],
        "flip": False,
        "limit": None,
        "seed": 0,
    }
    return OpenMoji(**settings | changes)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    source(folder).splits()
    return folder


FEW = (["👍", "🚒", "🐶"], np.arange(3 * 72 * 72 * 3, dtype=np.uint8).reshape(3, 72, 72, 3))
"""What is drawn where only the keeping matters: all emoji take seconds."""


def drawings(split: Any) -> set[str]:
    return {hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in split.images.pixels}


def test_no_drawing_stands_on_both_sides(cache: Path) -> None:
    train, val = source(cache).splits()
    assert drawings(train).isdisjoint(drawings(val))
    assert len(train) + len(val) > 3900
    assert 380 <= len(val) <= 420


def test_every_held_out_caption_has_a_word_that_was_trained_on(cache: Path) -> None:
    train, val = source(cache).splits()
    trained = {word for own in train.captions for text in own for word in text.casefold().split()}
    for captions in val.captions:
        for caption in captions:
            assert trained & set(caption.casefold().split()), caption


def test_some_emoji_share_a_drawing_and_a_side(cache: Path) -> None:
    train, val = source(cache).splits()
    assert len(drawings(train)) < len(train)
    for one, other in (("🇹🇩", "🇷🇴"),):
        assert (one in train.ids) == (other in train.ids)
        assert (one in val.ids) == (other in val.ids)


def test_the_split_follows_its_seed_alone(cache: Path) -> None:
    assert list(source(cache).splits()[1].ids) == list(source(cache, seed=5).splits()[1].ids)
    assert list(source(cache).splits()[1].ids) != list(source(cache, split_seed=1).splits()[1].ids)


def test_names_and_aliases_are_captions() -> None:
    assert openmoji.captions_of("👍") == ("thumbs up", "thumbsup", "+1")
    assert openmoji.captions_of("👩🏽‍🚒") == ("woman firefighter medium skin tone",)


def test_nothing_blank_is_kept(cache: Path) -> None:
    train, _ = source(cache).splits()
    assert (train.images.pixels.reshape(len(train), -1).min(axis=1) < 128).all()


def test_the_second_reading_comes_from_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmoji_drawings, "draw_all", lambda: pytest.fail("drawn again"))
    assert len(source(cache).splits()[0]) > 3000


def test_a_half_written_cache_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmoji_drawings, "draw_all", lambda: FEW)
    monkeypatch.setattr(openmoji, "captions_of", lambda character: ("an emoji",))

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as during_writing, pytest.raises(KeyboardInterrupt):
        during_writing.setattr(np, "save", interrupted)
        source(tmp_path).splits()
    train, val = source(tmp_path, val_fraction=0.4).splits()
    assert sorted([*train.ids, *val.ids]) == sorted(FEW[0])


def test_limit_keeps_the_first_images(cache: Path) -> None:
    train, val = source(cache, limit=7).datasets()
    assert len(train) == len(val) == 7
    assert list(train.split.ids) == list(source(cache).splits()[0].ids[:7])


@pytest.mark.parametrize(
    "changes",
    [{"val_fraction": 1.0}, {"limit": 0}, {"crop_scale": [0.9, 0.5]}, {"image_size": 8}],
)
def test_refuses_settings_out_of_range(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(changes))):
        source(tmp_path, **changes)


def test_drawings_that_look_the_same_are_one() -> None:
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 200, (4, 12, 12, 3), dtype=np.uint8)
    pixels = coarse.repeat(6, axis=1).repeat(6, axis=2)
    moved, other = pixels[0].copy(), pixels[0].copy()
    moved[10:12, 10:14] += 40  # a few pixels
    other[6:12, 6:12] += 40  # a whole cell
    drawings = np.stack([*pixels, moved, other, pixels[3]])
    assert openmoji_drawings.group_alike(drawings) == [[0, 4], [1], [2], [3, 6], [5]]


def test_the_groups_that_are_kept_are_those_of_the_drawings(cache: Path) -> None:
    drawings = openmoji_drawings.drawings_in(cache)
    assert drawings.groups == openmoji_drawings.group_alike(drawings.pixels)


@pytest.mark.parametrize("damage", ["cut", "missing", "one bit", "characters", "a file"])
def test_damaged_drawings_are_made_anew(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(openmoji_drawings, "draw_all", lambda: FEW)
    characters, drawn, groups = openmoji_drawings.drawings_in(tmp_path)
    (place,) = tmp_path.iterdir()
    pixels = place / "pixels.npy"
    content = pixels.read_bytes()
    if damage == "missing":
        pixels.unlink()
    elif damage == "characters":
        (place / "characters.json").write_text("[")
    elif damage == "a file":
        shutil.rmtree(place)
        place.write_text("no folder")
    else:
        changed = bytearray(content)
        changed[len(content) // 2] ^= 1
        pixels.write_bytes(content[:1000] if damage == "cut" else changed)
    again = openmoji_drawings.drawings_in(tmp_path)
    assert "are damaged and are made anew" in caplog.text
    assert again.characters == characters and np.array_equal(again.pixels, drawn)
    assert again.groups == groups
    assert pixels.read_bytes() == content


def test_a_place_that_cannot_be_written_is_told_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(openmoji_drawings, "draw_all", lambda: FEW)
    (tmp_path / "file").write_text("")
    assert openmoji_drawings.drawings_in(tmp_path / "file" / "cache").characters == FEW[0]
    assert "cannot be kept" in caplog.text and "data.cache_dir=FOLDER" in caplog.text


def test_drawings_that_look_alike_are_of_one_part() -> None:
    plain = make(compose(), "data")
    tested = make(compose("data.seeded_test_fraction=0.05"), "data")
    assert isinstance(tested, OpenMoji)
    before, after = part_ids(plain), part_ids(tested)
    assert after["val"] == before["val"] and len(after["seeded test"]) > 100
    assert sorted(after["train"] + after["seeded test"]) == sorted(before["train"])
    tested.training_sets()  # finds no leak, and so does not warn
