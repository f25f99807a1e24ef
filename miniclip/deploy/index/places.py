"""Which files an index may lead to: those that this user embedded, or by, and those in named folders.

An index tells where its images and its model lie, and a stranger's may tell of any place. So the model, and
each folder or table that is embedded, is signed with the user's key; see `miniclip.provenance`.
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

UNSIGNED = (
    "The places of this index are not signed; miniclip search and serve will ask for --model MODEL and "
    "--root FOLDER"
)


class Places:
    """The folders and tables that images of an index may be opened in, and the models that may be.

    Args:
        folder: of the index.
        named: folders that the user named.
    """

    def __init__(self, folder: Path, named: Sequence[Path] = ()):
        self.folder = folder
        self.path = folder / FILE_NAME
        self.named = [os.path.realpath(root) for root in named]
        self._own: set[Path] = set()

    def add(self, place: Path) -> None:
        """Sign a folder or a table that this user embeds."""
        if self.is_own(place):
            return
        self._sign(_as_data(place))

    def add_model(self, path: Path) -> None:
        """Sign the model by which this user embeds."""
        if not self._is_signed(_model_as_data(path)):
            self._sign(_model_as_data(path))

    def may_load_model(self, path: Path) -> bool:
        """Whether to load a model, absolute: this user embedded by it, or it lies in the index's folder."""
        # by its name first: to follow the links of a path may already reach another machine
        is_inside = Path(os.path.normpath(path)).is_relative_to(self.folder.absolute())
        is_inside = is_inside and lies_within(os.path.realpath(self.folder), path)
        return is_inside or self._is_signed(_model_as_data(path))

    def is_own(self, place: Path) -> bool:
        """Whether this user embedded a folder or a table, absolute."""
        # a writer may have added it since
        if place not in self._own and self._is_signed(_as_data(place)):
            self._own.add(place)
        return place in self._own

    def may_open(self, place: Path, path: Path) -> bool:
        """Whether to open a file in a place of the index, or the table that is the place."""
        return any(lies_within(root, path) for root in self.named) or self.is_own(place)

    def is_named(self, place: Path) -> bool:
        """Whether a folder that the user named holds the place, or lies in it."""
        real = os.path.realpath(place)
        return any(lies_within(root, real) or lies_within(real, root) for root in self.named)

    def _sign(self, data: dict[str, str]) -> None:
        signature = sign(data, unsigned=UNSIGNED)
        if signature is not None:
            write_json(self.path, [*self._signatures(), signature])

    def _is_signed(self, data: dict[str, str]) -> bool:
        return any(is_ours(data, signature) for signature in self._signatures())

    def _signatures(self) -> list[str]:
        """Those in the file; none where it is missing or damaged, and it is written anew then."""
        try:
            content = json.loads(self.path.read_bytes()[:MOST_BYTES]) if self.path.is_file() else []
        except (OSError, ValueError, RecursionError):
            return []
        return [each for each in content if isinstance(each, str)] if isinstance(content, list) else []


def _as_data(place: Path) -> dict[str, str]:
    return {"place of an index": str(place)}


def _model_as_data(path: Path) -> dict[str, str]:
    return {"model of an index": str(path)}
