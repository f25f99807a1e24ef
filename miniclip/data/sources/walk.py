"""The one walk over a folder of a user's: its visible, regular files, and which of them are images."""

import logging
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path, PurePath

from PIL import Image

from miniclip.errors import UserError, counted

log = logging.getLogger(__name__)

NOT_OF_THE_USER = {
    "__macosx",
    "thumbs.db",
    "desktop.ini",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "@eadir",
}
"""What systems put into folders under names that are not hidden, in lower case."""

STUBS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow recognizes and cannot decode by itself."""

UNREADABLE = {
    *(".heic", ".heif", ".heics", ".hif", ".avif", ".avifs", ".jxl", ".jxr", ".wdp", ".bpg"),
    *(".svg", ".svgz", ".eps", ".ai", ".wmf", ".emf", ".cdr", ".psb", ".xcf", ".kra", ".exr", ".hdr"),
    *(".raw", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2"),
    *(".rwl", ".raf", ".pef", ".srw", ".x3f", ".3fr", ".iiq", ".erf", ".kdc", ".dcr", ".mrw"),
}
"""Endings of images that Pillow cannot decode, unless a plugin of it says otherwise."""


def find_images(folder: Path, *, root: Path | None = None) -> list[str]:
    """Names of the images below `folder`, sorted; see `visible_files` and `images_of`."""
    return images_of(visible_files(folder, root=root), folder)


def images_of(names: Iterable[str], folder: Path) -> list[str]:
    """Those of the names that end like an image which this Pillow decodes, in any case of the ending.

    Images that it does not decode are counted in one warning; other documents are passed over.
    """
    endings = readable_endings()
    images = []
    left_out: Counter[str] = Counter()

    for name in names:
        ending = os.path.splitext(name)[1].lower()
        if ending in endings:
            images.append(name)
        elif ending in UNREADABLE:
            left_out[ending] += 1

    if left_out:
        kinds = ", ".join(f"{ending} {count:,}" for ending, count in left_out.most_common())
        log.warning(
            "%s: %s left out: %s; convert them to .jpg or .png to use them.",
            folder,
            counted(left_out.total(), "image"),
            kinds,
        )
    return images


def visible_files(folder: Path, *, root: Path | None = None) -> list[str]:
    """Names, relative to `folder` and in order, of the regular files below it that a user put there.

    Folders are parted by / on every system, so that the ids of images, and all that is drawn by them, are
    the same everywhere.

    Hidden files and folders are left out, and so is what systems leave behind (`NOT_OF_THE_USER`). A link
    is followed within `root`, and each folder is entered once, so that circles end. Links that lead out
    of `root`, or nowhere, are counted in one warning.

    Args:
        folder: where the walk begins.
        root: what the walk stays in; None is `folder`.

    Raises:
        UserError: when a folder cannot be listed, or `folder` itself leads out of `root`.
    """
    home = os.path.realpath(root or folder)
    if not lies_within(home, folder):
        raise UserError(f"{folder} leads out of {root}; it is not followed. Put the folder itself there.")

    files: list[str] = []
    lost_links: list[str] = []
    for entry in _entries_below(folder, home):
        if entry.is_symlink() and not (os.path.exists(entry) and lies_within(home, entry.path)):
            lost_links.append(entry.path)
        elif entry.is_file():  # no pipe, no socket
            files.append(entry.path)

    if lost_links:
        log.warning(
            "%s: %s out of the folder or to nowhere left out, like %s; copy the files themselves.",
            folder,
            counted(len(lost_links), "link"),
            lost_links[0],
        )
    names = [name_below(folder, Path(path)) for path in files]
    return sorted(names, key=lambda name: name.split("/"))


def name_below(folder: PurePath, path: PurePath) -> str:
    """Name of a file relative to a folder that it lies in, with / between folders on every system."""
    return path.relative_to(folder).as_posix()


def is_visible(name: str) -> bool:
    """Whether a file or folder of this name is a user's own, and neither hidden nor left by a system."""
    return not name.startswith(".") and name.lower() not in NOT_OF_THE_USER


def lies_within(home: str, path: str | Path) -> bool:
    """Whether a path, its links followed, lies in the folder of the real path `home`."""
    try:
        return os.path.commonpath([home, os.path.realpath(path)]) == home
    except ValueError:  # another drive of Windows, or a NUL in the name
        return False


def examples(names: Sequence[str], *, limit: int = 3) -> str:
    """The first of some names: "a.jpg, b.jpg, c.jpg, ..."."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


@cache
def readable_endings() -> frozenset[str]:
    """Endings, in lower case, of the images that this Pillow with its plugins decodes."""
    formats = Image.registered_extensions()  # which loads the plugins that fill OPEN
    return frozenset(ending for ending, kind in formats.items() if kind in Image.OPEN and kind not in STUBS)


def _entries_below(folder: Path, home: str) -> Iterator["os.DirEntry[str]"]:
    """Visible files, folders and links below a folder; those within `home` are entered.

    Folders come before links to folders, so that a folder which is here twice keeps its own name.
    """
    pending = deque([str(folder)])
    entered: set[str] = set()

    while pending:
        path = pending.pop()
        real_path = os.path.realpath(path)
        if real_path in entered or not lies_within(home, real_path):
            continue
        entered.add(real_path)

        for entry in visible_entries(path):
            yield entry
            if is_folder(entry):
                add = pending.appendleft if entry.is_symlink() else pending.append
                add(entry.path)


def visible_entries(path: str | Path) -> list["os.DirEntry[str]"]:
    """What a user put right into a folder.

    Raises:
        UserError: when it cannot be listed.
    """
    return [entry for entry in entries_of(path) if is_visible(entry.name)]


def entries_of(path: str | Path) -> list["os.DirEntry[str]"]:
    """All that lies right in a folder.

    Raises:
        UserError: when it cannot be listed.
    """
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(f"The folder {path} cannot be listed ({error.strerror}).") from None


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry is a folder, or a link to one; of what is no link its folder's list tells."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()  # a link may lead to itself
