"""Checks of the settings that data sources share; each names the setting, the value and the fix."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from miniclip.errors import SettingError, at_least, in_range

MIN_IMAGE_SIZE = 16


def check_val_fraction(value: float) -> None:
    """Hold a fraction of images that validate against its range.

    Raises:
        SettingError: when it is no fraction.
    """
    in_range("val_fraction", value, 0, 1, includes_low=False, includes_high=False)


def existing_path(setting: str, value: str, *, kind: Literal["file", "folder"] = "file") -> Path:
    """`value` as a path that exists and is of the kind.

    Raises:
        SettingError: when it is missing or of another kind.
    """
    path = Path(value).expanduser()
    if not (path.is_file() if kind == "file" else path.is_dir()):
        problem = f"is not a {kind}" if path.exists() else "does not exist"
        raise SettingError(setting, value, f"{problem}; give the path of a {kind}")
    return path


def check_sizes(image_size: int, crop_scale: Sequence[float], limit: int | None) -> None:
    """Hold sizes against their ranges.

    Raises:
        SettingError: names the first that is out of range.
    """
    at_least("image_size", image_size, MIN_IMAGE_SIZE, hint=" pixels")
    if len(crop_scale) != 2 or not 0 < crop_scale[0] <= crop_scale[1] <= 1:
        allowed = "must be two fractions with 0 < least <= most <= 1"
        raise SettingError("crop_scale", list(crop_scale), allowed)
    if limit is not None:
        at_least("limit", limit, 1, hint=", or null for all images")


def check_fractions(max_broken_fraction: float, seeded_test_fraction: float) -> None:
    """Hold fractions of images against their ranges.

    Raises:
        SettingError: names the first that is out of range.
    """
    in_range("max_broken_fraction", max_broken_fraction, 0, 1)
    in_range("seeded_test_fraction", seeded_test_fraction, 0, 1, includes_high=False)


def check_view(crop: str, *, flip: bool, cache: str) -> None:
    """Hold what of an image trains against what a cache or a crop leaves to be drawn.

    Raises:
        SettingError: when something would be drawn that a setting rules out.
    """
    if cache == "features" and crop != "eval":
        allowed = "keeps one view of each image, so that nothing may be drawn; needs data.crop=eval"
        raise SettingError("cache", cache, allowed)
    if crop == "eval" and flip:
        allowed = "mirrors nothing with data.crop=eval, which draws nothing; give false"
        raise SettingError("flip", flip, allowed)
