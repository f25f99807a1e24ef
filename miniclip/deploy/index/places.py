"""Which images of an index may be opened: those that this user embedded, and those in named folders.

An index tells where its images lie, and a stranger's may tell of any place. So each folder or table that is
embedded is signed with the user's key; see `miniclip.provenance`.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from miniclip.data.sources.walk import lies_within
from miniclip.files import write_json
from miniclip.provenance import is_ours, sign

FILE_NAME = "signatures.json"

MOST_BYTES = 2**20
"""Of signatures that are read: those of ten thousand places."""

UNSIGNED = "The places of this index are not signed; miniclip search and serve will ask for --root FOLDER"


class Places:
    """The folders and tables that images of an index may be opened in.

    Args:
        folder: of the index.
        named: folders that the user named.
    """

    def __init__(self, folder: Path, named: Sequence[Path] = ()):
        self.path = folder / FILE_NAME
        self.named = [os.path.realpath(root) for root in named]
        self._own: set[Path] = set()

    def add(self, place: Path) -> None:
        """Sign a folder or a table that this user embeds."""
        if self.is_own(place):
            return
        signature = sign(_as_data(place), unsigned=UNSIGNED)
        if signature is not None:
            write_json(self.path, [*self._signatures(), signature])

    def is_own(self, place: Path) -> bool:
        """Whether this user embedded a folder or a table, absolute."""
        if place not in self._own:  # a writer may have added it since
            data = _as_data(place)
            if any(is_ours(data, signature) for signature in self._signatures()):
                self._own.add(place)
        return place in self._own

    def may_open(self, place: Path, path: Path) -> bool:
        """Whether to open a file in a place of the index, or the table that is the place."""
        return any(lies_within(root, path) for root in self.named) or self.is_own(place)

    def is_named(self, place: Path) -> bool:
        """Whether a folder that the user named holds the place, or lies in it."""
        real = os.path.realpath(place)
        return any(lies_within(root, real) or lies_within(real, root) for root in self.named)

    def _signatures(self) -> list[str]:
        """None where the file is missing or damaged; it is written anew then."""
        try:
            content = json.loads(self.path.read_bytes()[:MOST_BYTES]) if self.path.is_file() else []
        except (OSError, ValueError, RecursionError):
            return []
        return [each for each in content if isinstance(each, str)] if isinstance(content, list) else []


def _as_data(place: Path) -> dict[str, str]:
    return {"place of an index": str(place)}
