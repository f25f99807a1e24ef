"""The rows of an index's tables: its sources, the entries of their images, and what could not be read."""

import os
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from miniclip.deploy.index.source import SourceImage

NEVER = -2
"""Time of change that no file has, for an image that is to be read again."""


MISFITS = """
SELECT id FROM entries WHERE source NOT IN (SELECT id FROM sources)
    OR typeof(name) <> 'blob' OR typeof(title) NOT IN ('text', 'null') OR typeof(digest) <> 'blob'
    OR typeof(slot) <> 'integer' OR typeof(version) <> 'integer'
LIMIT 1
"""
"""Entries that no writer makes: SQLite keeps any type in any column, and a stranger may have filled it."""


class Known(NamedTuple):
    """An image as the index knows it."""

    id: int
    image: SourceImage
    digest: bytes
    slot: int


class Encoded(NamedTuple):
    """An image to put into the index.

    Attributes:
        image: as its source shows it.
        digest: of its content.
        vector: (D,) float32.
    """

    image: SourceImage
    digest: bytes
    vector: np.ndarray


class EntryTable:
    """What the one writer reads and changes of the tables, a statement at a time.

    Each change commits by itself, unless the connection is between BEGIN and COMMIT.

    Args:
        connection: of `miniclip.deploy.index.database.writing`.
    """

    def __init__(self, connection: sqlite3.Connection):
        self.connection = connection

    def source(self, path: Path, *, kind: str, root: Path, image_column: str | None) -> int:
        """The number of a source, which is new or known.

        Where its images are those of another column or folder than before, all are read again.
        """
        values = [kind, os.fsencode(root), image_column, os.fsencode(path)]
        find = "SELECT id, kind, root, image_column FROM sources WHERE path = ?"
        row = self.connection.execute(find, values[-1:]).fetchone()
        if row is None:
            self.connection.execute(
                "INSERT INTO sources (kind, root, image_column, path) VALUES (?, ?, ?, ?)", values
            )
            row = self.connection.execute(find, values[-1:]).fetchone()

        number, *former = row
        if former != values[:-1]:
            self._change_place(number, values[:-1])
        return number

    def _change_place(self, source: int, values: Sequence[str | bytes | None]) -> None:
        """Change kind, root and image_column of a source; none of its images counts as seen any more."""
        with self.connection:
            self.connection.execute("BEGIN IMMEDIATE")
            for table in ("entries", "broken"):
                self.connection.execute(f"UPDATE {table} SET mtime_ns = {NEVER} WHERE source = ?", [source])
            self.connection.execute(
                "UPDATE sources SET kind = ?, root = ?, image_column = ?, size = NULL, mtime_ns = NULL "
                "WHERE id = ?",
                [*values, source],
            )

    def sources(self) -> dict[Path, int]:
        """The sources by their paths."""
        rows = self.connection.execute("SELECT path, id FROM sources ORDER BY id")
        return {Path(os.fsdecode(path)): number for path, number in rows}

    def folders(self) -> dict[Path, int]:
        """Those of the sources that are folders."""
        rows = self.connection.execute(
            "SELECT path, id FROM sources WHERE kind = 'files' AND path = root ORDER BY id"
        )
        return {Path(os.fsdecode(path)): number for path, number in rows}

    def is_read(self, source: int, size: int, mtime_ns: int) -> bool:
        """Whether a table of this size and time has been read to its end."""
        row = self.connection.execute("SELECT size, mtime_ns FROM sources WHERE id = ?", [source])
        return row.fetchone() == (size, mtime_ns)

    def set_read(self, source: int, size: int, mtime_ns: int) -> None:
        """Keep that a table of this size and time has been read to its end."""
        self.connection.execute(
            "UPDATE sources SET size = ?, mtime_ns = ? WHERE id = ?", [size, mtime_ns, source]
        )

    def known(self, source: int) -> dict[str, Known]:
        """The entries of a source by their names."""
        rows = self.connection.execute(
            "SELECT id, name, size, mtime_ns, title, digest, slot FROM entries WHERE source = ?", [source]
        )
        known = {}
        for number, name, size, mtime_ns, title, digest, slot in rows:
            image = SourceImage(os.fsdecode(name), size, mtime_ns, title)
            known[image.name] = Known(number, image, digest, slot)
        return known

    def broken(self, source: int) -> tuple[dict[str, SourceImage], dict[str, str]]:
        """The images of a source that could not be read, and the reasons, by their names."""
        rows = self.connection.execute(
            "SELECT name, size, mtime_ns, reason FROM broken WHERE source = ?", [source]
        )
        images, reasons = {}, {}
        for encoded_name, size, mtime_ns, reason in rows:
            name = os.fsdecode(encoded_name)
            images[name] = SourceImage(name, size, mtime_ns)
            reasons[name] = reason
        return images, reasons

    def slot_of_digest(self) -> dict[bytes, int]:
        """Where the vector of each image is, by the digest of its content."""
        return dict(self.connection.execute("SELECT digest, slot FROM entries"))

    def insert(
        self, source: int, encoded: Sequence[Encoded], slots: Sequence[int], *, version: int
    ) -> None:
        """Add entries whose vectors lie in slots.

        Args:
            version: of the commit that adds them.
        """
        rows = []
        for (image, digest, _), slot in zip(encoded, slots, strict=True):
            name = os.fsencode(image.name)
            rows.append((source, name, image.size, image.mtime_ns, image.title, digest, slot, version))

        self.connection.executemany(
            "INSERT INTO entries (source, name, size, mtime_ns, title, digest, slot, version) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def insert_broken(self, source: int, broken: Sequence[tuple[SourceImage, str]]) -> None:
        """Add images that could not be read, with the reason."""
        rows = [
            (source, os.fsencode(image.name), image.size, image.mtime_ns, reason)
            for image, reason in broken
        ]
        self.connection.executemany("INSERT INTO broken VALUES (?, ?, ?, ?, ?)", rows)

    def delete(self, source: int, names: Iterable[str]) -> None:
        """Delete what is known under these names."""
        places = [(source, os.fsencode(name)) for name in names]
        for table in ("broken", "entries"):
            self.connection.executemany(f"DELETE FROM {table} WHERE source = ? AND name = ?", places)

    def delete_source(self, source: int) -> None:
        """Delete a source and all that is known of it."""
        self.connection.execute("DELETE FROM entries WHERE source = ?", [source])
        self.connection.execute("DELETE FROM broken WHERE source = ?", [source])
        self.connection.execute("DELETE FROM sources WHERE id = ?", [source])

    def close_up(self, slots: np.ndarray) -> None:
        """Point the entries of slots (N,), ascending, at the first N, in the same order."""
        # ascending, so that no slot is taken before it is left
        moves = [(new, int(old)) for new, old in enumerate(slots)]
        self.connection.executemany("UPDATE entries SET slot = ? WHERE slot = ?", moves)


def slots_of(connection: sqlite3.Connection) -> tuple[np.ndarray, np.ndarray]:
    """The slots in use (N,) int64, ascending, and the versions of their entries (N,) int64.

    Raises:
        DatabaseError: when an entry is of no source, or holds other types than an index has.
    """
    misfit = connection.execute(MISFITS).fetchone()
    if misfit is not None:
        raise sqlite3.DatabaseError(f"entry {misfit[0]} is none of an index")
    pairs = connection.execute("SELECT slot, version FROM entries")
    slots, versions = np.fromiter(chain.from_iterable(pairs), np.int64).reshape(-1, 2).T
    order = np.argsort(slots)
    return slots[order], versions[order]
