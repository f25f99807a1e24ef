"""Captions exchanged on purpose: whose they become, and that nothing else changes."""

import logging
from itertools import product
from pathlib import Path

import pytest

from miniclip.data import OpenMoji
from miniclip.data.caption_noise import exchanged_captions
from miniclip.data.images import ImageFiles
from miniclip.data.split import Split
from miniclip.errors import SettingError
from tests.data.sources.conftest import COMMON


def split_of(num_images: int, *, same: bool = False) -> Split:
    """A split whose images have one to three captions, which name the image; or all the same one."""
    names = [f"{index}.jpg" for index in range(num_images)]
    captions = [[f"{index}, caption {k}" for k in range(1 + index % 3)] for index in range(num_images)]
    if same:
        captions = [["a cat"]] * num_images
    labels = [f"class {index % 4}" for index in range(num_images)]
    return Split("train", names, ImageFiles(Path(), names, decode_size=8), captions, labels)


def as_lists(split: Split) -> list[list[str]]:
    """The captions as plain lists."""
    return [list(captions) for captions in split.captions]


def foreign_rows(clean: Split, noisy: Split) -> list[int]:
    """Rows whose captions are not their own."""
    pairs = zip(as_lists(clean), as_lists(noisy), strict=True)
    return [row for row, (own, now) in enumerate(pairs) if own != now]


@pytest.mark.parametrize(
    ("fraction", "expected", "seed"),
    [(fraction, round(50 * fraction), seed) for fraction, seed in product((0.04, 0.2, 0.4, 1.0), range(5))],
)
def test_the_chosen_have_anothers_captions_and_all_others_their_own(
    fraction: float, expected: int, seed: int
) -> None:
    clean = split_of(50)
    noisy = exchanged_captions(clean, fraction=fraction, seed=seed)
    assert len(foreign_rows(clean, noisy)) == expected
    assert sorted(as_lists(noisy)) == sorted(as_lists(clean))
    assert list(noisy.ids) == list(clean.ids) and noisy.images is clean.images
    assert noisy.labels is not None and list(noisy.labels) == list(clean.labels or ())
    assert noisy.fingerprint() != clean.fingerprint()


def test_equal_seeds_choose_alike_and_a_larger_fraction_holds_a_smaller_one() -> None:
    clean = split_of(50)
    few, again, other = (exchanged_captions(clean, fraction=0.2, seed=seed) for seed in (3, 3, 4))
    assert few.fingerprint() == again.fingerprint()
    assert set(foreign_rows(clean, few)) != set(foreign_rows(clean, other))
    more = exchanged_captions(clean, fraction=0.4, seed=3)
    assert set(foreign_rows(clean, few)) < set(foreign_rows(clean, more))


def test_no_noise_is_the_split_itself() -> None:
    clean = split_of(5)
    assert exchanged_captions(clean, fraction=0, seed=0) is clean


def test_it_is_told_once_and_captions_that_read_the_same_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        exchanged_captions(split_of(3000), fraction=0.5, seed=0)
        exchanged_captions(split_of(10, same=True), fraction=0.2, seed=0)
    assert [record.getMessage() for record in caplog.records] == [
        "1,500 of 3,000 training images have another image's captions.",
        "2 of 10 training images have another image's captions, of which 2 read as their own.",
    ]


def test_one_image_has_nobody_to_exchange_with() -> None:
    with pytest.raises(SettingError, match=r"caption_noise=0\.02: is 1 of 50 training images.*least 0\.04"):
        exchanged_captions(split_of(50), fraction=0.02, seed=0)
    with pytest.raises(SettingError, match="is 0 of 50 training images"):
        exchanged_captions(split_of(50), fraction=0.001, seed=0)
    with pytest.raises(SettingError, match="cannot be exchanged among 1 training image; give 0"):
        exchanged_captions(split_of(1), fraction=1, seed=0)


@pytest.mark.parametrize("fraction", [-0.1, 1.01, float("nan")])
def test_what_is_no_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(SettingError, match="caption_noise"):
        OpenMoji(val_fraction=0.1, split_seed=0, caption_noise=fraction, **COMMON)
