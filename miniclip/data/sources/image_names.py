"""The files below an image folder that the names in a table mean."""

import difflib
import logging
import os
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from miniclip.data.sources.walk import entries_of, is_folder
from miniclip.errors import UserError, counted

log = logging.getLogger(__name__)

MAX_COMPARED = 20_000
"""File names that are compared with a missing one, so that an error comes within a second."""


def find_images(root: Path, names: Iterable[str], *, skips_missing: bool) -> dict[str, str]:
    """Each name with the file it means, relative to `root`.

    The file of exactly this name wins. Where there is none, the one file that differs only in case, in how
    accents are written (NFC or NFD), or in backslashes between folders is taken, and such names are counted
    in one warning. With `skips_missing` a name without a file stays as it is.

    Raises:
        UserError: when a name lies outside `root`, also by a link; or when it is missing or means several
            files, and `skips_missing` is not set.
    """
    tree = _Tree(root)
    found: dict[str, str] = {}
    differing: list[str] = []
    missing: list[str] = []

    for name in names:
        plain = tree.below(name)
        if tree.holds(plain):
            found[name] = plain
            continue

        # of several candidates none can be meant
        candidates = tree.files_like(plain)
        is_clear = len(candidates) == 1
        found[name] = candidates[0] if is_clear else plain
        (differing if is_clear else missing).append(name if is_clear else plain)

    if differing:
        log.warning(
            "%s: %s unlike the files' in case, accents or slashes (%r is %r); the files are taken.",
            root,
            counted(len(differing), "name"),
            differing[0],
            found[differing[0]],
        )
    if missing and not skips_missing:
        raise _missing(tree, missing)
    return found


class _Tree:
    """Files below a folder, each of whose folders is listed once.

    Asking for every file by itself takes ten times as long.
    """

    def __init__(self, root: Path):
        self.root = root
        self.home = os.path.realpath(root)
        self._listings: dict[str, _Listing] = {}
        self._real_folders: dict[str, str] = {}

    def below(self, name: str) -> str:
        """A name relative to the folder, without steps in it, so that each file has one.

        One that leads out of the folder stays as it is.
        """
        if not (name.startswith(("/", ".")) or "/." in name or "//" in name or os.path.isabs(name)):
            return name
        folder, file = os.path.split(os.path.join(self.home, name))
        if "\0" in folder:
            return name
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(folder)
        path = os.path.join(self._real_folders[folder], file)
        return path[len(self.home) + 1 :] if path.startswith(self.home + os.sep) else name

    def holds(self, name: str) -> bool:
        """Whether there is a file of exactly this name.

        Raises:
            UserError: when it lies outside the folder.
        """
        folder, file = os.path.split(name)
        is_link = self.listing(folder).files.get(file)
        if is_link and not self._lies_within(name):
            raise self._outside(name)
        return is_link is not None

    def files_like(self, name: str) -> list[str]:
        """The files whose names differ only in case, accents or slashes.

        Raises:
            UserError: when the name, or the only such file, lies outside the folder.
        """
        slashed = name.replace("\\", "/")
        if posixpath.normpath(slashed).startswith(("..", "/")):
            raise self._outside(name)
        *folders, file = _without_dots(slashed).split("/")

        # folders may differ in case, too, so that several paths are followed at once
        paths = [""]
        for folder in folders:
            paths = [
                posixpath.join(path, match)
                for path in paths
                for match in self.listing(path).folders_like(folder)
            ]
        files = [
            posixpath.join(path, match) for path in paths for match in self.listing(path).files_like(file)
        ]
        return [path for path in files if self.holds(path)]

    def listing(self, folder: str) -> "_Listing":
        """What a folder holds; nothing when there is no such folder.

        Raises:
            UserError: when it lies outside.
        """
        if folder not in self._listings:
            if "\0" in folder or not self._lies_within(folder):
                raise self._outside(folder)
            self._listings[folder] = _Listing(os.path.join(self.home, folder))
        return self._listings[folder]

    def _lies_within(self, name: str) -> bool:
        path = os.path.realpath(os.path.join(self.home, name))
        return os.path.commonpath([self.home, path]) == self.home

    def _outside(self, name: str) -> UserError:
        return UserError(f"The image {name!r} lies outside the image folder {self.root}; it is not opened.")


class _Listing:
    """Files and folders in a folder, by name and by what their names have in common.

    Attributes:
        files: name to whether it is a link.

    Raises:
        UserError: when it cannot be listed.
    """

    def __init__(self, path: str):
        self.files: dict[str, bool] = {}
        self.folders: list[str] = []
        self._alike: dict[str, list[str]] | None = None  # made when a name is first looked for
        if not os.path.isdir(path):
            return
        for entry in entries_of(path):
            if is_folder(entry):
                self.folders.append(entry.name)
            else:
                self.files[entry.name] = entry.is_symlink()

    def files_like(self, name: str) -> list[str]:
        if name in self.files:
            return [name]
        if self._alike is None:
            self._alike = defaultdict(list)
            for file in self.files:
                self._alike[_key(file)].append(file)
        return sorted(self._alike.get(_key(name), []))

    def folders_like(self, name: str) -> list[str]:
        if name in self.folders:
            return [name]
        return sorted(folder for folder in self.folders if _key(folder) == _key(name))


def _key(name: str) -> str:
    """What names that differ only in case or in how accents are written have in common."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _without_dots(name: str) -> str:
    """The name without steps that stay in their folder: ./0.jpg is 0.jpg."""
    if "./" not in name and "//" not in name:
        return name
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _missing(tree: _Tree, names: Sequence[str]) -> UserError:
    name = names[0]
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    candidates = tree.files_like(name)
    hint = f"It can mean {' or '.join(candidates)}. " if candidates else _nearest(tree, name)
    return UserError(
        f"The image {os.path.join(tree.home, name)!r}{more} named by the captions is missing. {hint}Check "
        f"the image folder {tree.root}, or remove the rows."
    )


def _nearest(tree: _Tree, name: str) -> str:
    folder, file = posixpath.split(name.replace("\\", "/"))
    for place in dict.fromkeys((folder, "")):
        files = list(tree.listing(place).files)[:MAX_COMPARED]
        close = [file] if file in files else difflib.get_close_matches(file, files, n=1)
        if close:
            return f"The nearest file is {posixpath.join(place, close[0])}. "
    return ""
