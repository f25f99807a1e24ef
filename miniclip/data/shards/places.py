"""From what `data.urls` says to shards: paths, patterns, folders, lists and addresses."""

import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from miniclip.data.sources.walk import is_visible
from miniclip.errors import SettingError, without_secrets
from miniclip.files import typed_path

PROTOCOLS = ("http", "https", "s3", "gs", "gcs", "az", "abfs", "hf")
"""Of remote shards; each is read by the package of fsspec's that knows it."""

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
ADDRESS = re.compile(r"([a-z0-9+.-]+)://", re.IGNORECASE)

MOST_SHARDS = 1_000_000
"""That a pattern may stand for."""

HOW_TO_SIGN_IN = (
    "holds a password or a key; give the address alone, and sign in by the variables of the environment "
    "that your storage knows (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://)"
)


def expanded(setting: str, urls: str | Sequence[str]) -> list[str]:
    """The paths and addresses that a setting stands for, in order; patterns of addresses stay patterns.

    Args:
        setting: its name, for errors.
        urls: a path, a folder of shards, an address, or a pattern of these with {0000..0011}, {a,b}, *, ?
            or [0-9]; or a list of such.

    Raises:
        SettingError: when a path does not exist, nothing fits a pattern, or something stands there twice.
    """
    listed = [urls] if isinstance(urls, str) else list(urls)
    if not listed:
        raise SettingError(setting, "[]", "names no shard")

    found = [place for text in listed for place in _places(setting, text)]
    if not found:
        raise SettingError(setting, urls, "stands for no shard")
    most_often, count = Counter(found).most_common(1)[0]
    if count > 1:
        raise SettingError(setting, most_often, f"names this shard {count} times")
    return found


def is_remote(place: str) -> bool:
    """Whether a place is an address, no path of this machine."""
    return ADDRESS.match(place) is not None


def is_pattern(place: str) -> bool:
    """Whether a place stands for all whose names fit."""
    # a question mark begins the query of an address
    signs = "*[" if is_remote(place) else "*?["
    return any(sign in place for sign in signs)


def ids_of(places: Sequence[str]) -> list[str]:
    """How the images of each shard are called: its name without the folder that all share, nor ".tar".

    Endings stay where they alone tell shards apart: of part.0 and part.1, say.
    """
    names = [PurePosixPath(place.replace(os.sep, "/")) for place in places]
    parents = [name.parent.parts for name in names]
    is_shared = (len(set(parts)) == 1 for parts in zip(*parents, strict=False))
    num_shared = sum(itertools.takewhile(bool, is_shared))

    stems = [name.with_suffix("") for name in names]
    called = stems if len(set(stems)) == len(names) else names
    return ["/".join(name.parts[num_shared:]) for name in called]


def _places(setting: str, text: str) -> list[str]:
    places = list(itertools.islice(_braces_expanded(text), MOST_SHARDS + 1))
    if len(places) > MOST_SHARDS:
        raise SettingError(setting, text, f"stands for more than {MOST_SHARDS:,} shards")

    found = []
    for place in places:
        if is_remote(place):
            _check_address(setting, place)
            found.append(place)
        else:
            found += _local(setting, place)
    return found


def _braces_expanded(text: str) -> Iterator[str]:
    """A text for each choice in its braces: {0000..0011} counts, and {a,b} lists."""
    braces = BRACES.search(text)
    if braces is None:
        yield text
        return

    before, after = text[: braces.start()], text[braces.end() :]
    for choice in _choices(braces[1]):
        for rest in _braces_expanded(after):
            yield f"{before}{choice}{rest}"


def _choices(inner: str) -> Iterator[str]:
    counted = RANGE.fullmatch(inner)
    if counted is None:
        yield from inner.split(",")
        return

    first, last = counted[1], counted[2]
    width = len(first) if first.startswith("0") else 0
    for number in range(int(first), int(last) + 1):
        yield f"{number:0{width}}"


def _check_address(setting: str, address: str) -> None:
    if without_secrets(address) != address:
        raise SettingError(setting, without_secrets(address), HOW_TO_SIGN_IN)
    protocol = address.partition("://")[0].lower()
    if protocol not in PROTOCOLS or "::" in address:
        raise SettingError(setting, address, f"must begin with one of {', '.join(PROTOCOLS)}, or be a path")


def _local(setting: str, place: str) -> list[str]:
    """The paths that a path, a folder or a pattern of names stands for."""
    path = typed_path(place)
    if path.is_dir():
        return _shards_in(setting, path)
    if path.exists():
        return [str(path)]
    if not is_pattern(place):
        raise SettingError(setting, place, "does not exist; give the path of a .tar, a folder or a pattern")

    found = sorted(name for name in glob.glob(str(path), recursive=True) if os.path.isfile(name))
    if not found:
        raise SettingError(setting, place, "no shard fits this pattern")
    return found


def _shards_in(setting: str, folder: Path) -> list[str]:
    names = sorted(
        name for name in os.listdir(folder) if name.lower().endswith(".tar") and is_visible(name)
    )
    if not names:
        raise SettingError(setting, folder, "holds no shards (*.tar); miniclip shard writes some")
    return [str(folder / name) for name in names]
