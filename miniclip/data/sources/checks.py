"""Checks of the settings that data sources share; each names the setting, the value and the fix."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from miniclip.errors import SettingError

MIN_IMAGE_SIZE = 16


def check_val_fraction(value: float) -> None:
    """Hold a fraction of images that validate against its range.

    Raises:
        SettingError: when it is no fraction.
    """
    if not 0 < value < 1:
        raise SettingError("val_fraction", value, "must lie between 0 and 1")


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
    if image_size < MIN_IMAGE_SIZE:
        raise SettingError("image_size", image_size, f"must be at least {MIN_IMAGE_SIZE} pixels")
    if len(crop_scale) != 2 or not 0 < crop_scale[0] <= crop_scale[1] <= 1:
        allowed = "must be two fractions with 0 < least <= most <= 1"
        raise SettingError("crop_scale", list(crop_scale), allowed)
    if limit is not None and limit < 1:
        raise SettingError("limit", limit, "must be at least 1, or null for all images")


def check_fractions(max_broken_fraction: float, seeded_test_fraction: float) -> None:
    """Hold fractions of images against their ranges.

    Raises:
        SettingError: names the first that is out of range.
    """
    if not 0 <= max_broken_fraction <= 1:
        raise SettingError("max_broken_fraction", max_broken_fraction, "must lie between 0 and 1")
    if not 0 <= seeded_test_fraction < 1:
        allowed = "must be at least 0 and below 1"
        raise SettingError("seeded_test_fraction", seeded_test_fraction, allowed)


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
