"""Writing an index: vectors first, then the commit that points at them."""

import contextlib
import os
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from miniclip.deploy.index import graph as graphs
from miniclip.deploy.index import vectors as vector_files
from miniclip.deploy.index.database import FILE_NAME, Facts, damaged, facts_of, writing
from miniclip.deploy.index.reader import slots_of
from miniclip.deploy.index.sources import SourceImage
from miniclip.deploy.index.vectors import VectorFile
from miniclip.embedding_model import FingerprintedModel
from miniclip.errors import UserError
from miniclip.files import locked

LOCK = ".lock"

MIN_FREE = 1000
MAX_FREE = 0.25
"""More free slots than this, both in number and as a fraction of all, and the file is packed."""


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


class IndexWriter:
    """The one writer of an index; see `open_writer`.

    A slot that a commit points at is never written: new vectors go to free slots and to the end of the
    file, and are on the disk before the commit. So an index is whole whenever the process is killed.
    Slots that this writer frees are left to the next one.

    Attributes:
        slot_of_digest: where the vector of each image is that the index holds, or held when it was opened.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection, facts: Facts):
        self.folder = folder
        self.connection = connection
        self.facts = facts
        self._open_vectors()
        self.slot_of_digest: dict[bytes, int] = dict(connection.execute("SELECT digest, slot FROM entries"))

    def source(self, path: Path, *, kind: str, root: Path, image_column: str | None) -> int:
        """The number of a source, which is new or known."""
        values = [os.fsencode(path), kind, os.fsencode(root), image_column]
        self.connection.execute(
            "INSERT INTO sources (path, kind, root, image_column) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (path) DO UPDATE SET root = excluded.root, image_column = excluded.image_column",
            values,
        )
        row = self.connection.execute("SELECT id FROM sources WHERE path = ?", values[:1]).fetchone()
        return row[0]

    def sources(self) -> dict[Path, int]:
        """The sources by their paths."""
        rows = self.connection.execute("SELECT path, id FROM sources ORDER BY id")
        return {Path(os.fsdecode(path)): number for path, number in rows}

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

    def vector(self, digest: bytes) -> np.ndarray:
        """The vector (D,) float16 of the image of a digest in `slot_of_digest`."""
        return self._file.mapped()[self.slot_of_digest[digest]].copy()

    def put(
        self, source: int, encoded: Sequence[Encoded], *, broken: Sequence[tuple[SourceImage, str]] = ()
    ) -> None:
        """Commit new and changed images, and those that could not be read, with the reason.

        Raises:
            UserError: when a vector is not finite.
        """
        slots = self._free_slots(len(encoded))
        if encoded:
            vectors = np.stack([one.vector for one in encoded])  # (N, D)
            self._check(vectors, encoded)
            self._file.write(slots, vectors)

        with self._commit():
            names = [os.fsencode(one.image.name) for one in encoded]
            names += [os.fsencode(image.name) for image, _ in broken]
            self._delete(source, names)
            self._insert(source, encoded, slots)
            self.connection.executemany(
                "INSERT INTO broken VALUES (?, ?, ?, ?, ?)",
                [
                    (source, os.fsencode(image.name), image.size, image.mtime_ns, reason)
                    for image, reason in broken
                ],
            )
        self.slot_of_digest |= {one.digest: slot for one, slot in zip(encoded, slots, strict=True)}

    def drop(self, source: int, names: Collection[str]) -> None:
        """Commit that images are gone."""
        if not names:
            return
        with self._commit():
            self._delete(source, [os.fsencode(name) for name in names])

    def forget(self, source: int) -> None:
        """Commit that a source and all its images are gone."""
        with self._commit():
            self.connection.execute("DELETE FROM entries WHERE source = ?", [source])
            self.connection.execute("DELETE FROM broken WHERE source = ?", [source])
            self.connection.execute("DELETE FROM sources WHERE id = ?", [source])

    def is_read(self, source: int, size: int, mtime_ns: int) -> bool:
        """Whether a table of this size and time has been read to its end."""
        row = self.connection.execute("SELECT size, mtime_ns FROM sources WHERE id = ?", [source])
        return row.fetchone() == (size, mtime_ns)

    def set_read(self, source: int, size: int, mtime_ns: int) -> None:
        """Commit that a table of this size and time has been read to its end."""
        self.connection.execute(
            "UPDATE sources SET size = ?, mtime_ns = ? WHERE id = ?", [size, mtime_ns, source]
        )

    def pack(self) -> bool:
        """Move all vectors to the beginning of a new file where many slots are free; whether it did."""
        slots, _ = slots_of(self.connection)
        num_free = self._end - len(slots)
        if num_free <= MIN_FREE or num_free <= MAX_FREE * self._end:
            return False

        packed = VectorFile(self.folder, self.facts.generation + 1, self.facts.embed_dim)
        packed.path.unlink(missing_ok=True)
        packed.create()
        packed.write(range(len(slots)), self._file.mapped()[slots])

        # ascending, so that no slot is taken before it is left
        moves = [(new, int(old)) for new, old in enumerate(slots)]
        with self._commit(new_generation=True):
            self.connection.executemany("UPDATE entries SET slot = ? WHERE slot = ?", moves)
        self._open_vectors()
        self.slot_of_digest = dict(self.connection.execute("SELECT digest, slot FROM entries"))
        return True

    def _open_vectors(self) -> None:
        """The file of the present generation, its free slots and its end; other files are removed."""
        self._file = VectorFile(self.folder, self.facts.generation, self.facts.embed_dim)
        slots, _ = slots_of(self.connection)
        self._end = int(slots[-1]) + 1 if len(slots) else 0
        self._free = np.setdiff1d(np.arange(self._end), slots)[::-1].tolist()

        if self._end == 0:
            self._file.create()
        if not self._file.path.exists():
            raise damaged(self.folder, f"{self._file.path.name} is missing")
        if self._file.num_slots < self._end:
            raise damaged(
                self.folder,
                f"its vectors are cut off, {self._file.num_slots:,} where {self._end:,} belong",
            )
        self._remove_others()

    def _remove_others(self) -> None:
        """Remove files of other generations, which a killed process or an open reader has left."""
        others = [path for path in self.folder.glob(vector_files.PATTERN) if path != self._file.path]
        for path in self.folder.glob(graphs.PATTERN):
            if not path.name.startswith(f"graph-{self.facts.generation}-"):
                others.append(path)
        for path in others:
            with contextlib.suppress(OSError):  # open on Windows
                path.unlink()

    def _free_slots(self, count: int) -> list[int]:
        """Slots to write into, taken out of the free ones."""
        slots = [self._free.pop() for _ in range(min(count, len(self._free)))]
        missing = count - len(slots)
        slots += range(self._end, self._end + missing)
        self._end += missing
        return slots

    @contextmanager
    def _commit(self, *, new_generation: bool = False) -> Iterator[None]:
        """A transaction that raises the version."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            facts = self.facts._replace(
                version=self.facts.version + 1,
                generation=self.facts.generation + new_generation,
            )
            self.connection.execute(
                "UPDATE facts SET version = ?, generation = ?", [facts.version, facts.generation]
            )
            self.connection.execute("COMMIT")
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.facts = facts

    def _insert(self, source: int, encoded: Sequence[Encoded], slots: Sequence[int]) -> None:
        rows = []
        for (image, digest, _), slot in zip(encoded, slots, strict=True):
            name = os.fsencode(image.name)
            version = self.facts.version + 1
            rows.append((source, name, image.size, image.mtime_ns, image.title, digest, slot, version))
        self.connection.executemany(
            "INSERT INTO entries (source, name, size, mtime_ns, title, digest, slot, version) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def _delete(self, source: int, names: Sequence[bytes]) -> None:
        """Delete what is known under these names."""
        places = [(source, name) for name in names]
        for table in ("broken", "entries"):
            self.connection.executemany(f"DELETE FROM {table} WHERE source = ? AND name = ?", places)

    def _check(self, vectors: np.ndarray, encoded: Sequence[Encoded]) -> None:
        """Stop at vectors that are not finite."""
        is_finite = np.isfinite(vectors).all(axis=1)
        if not is_finite.all():
            name = encoded[int(np.argmin(is_finite))].image.name
            raise UserError(
                f"The model {self.facts.model_name} gives no finite vector for {name}; its weights are "
                "damaged, or its training has diverged."
            )


@contextmanager
def open_writer(folder: Path, model: FingerprintedModel, *, model_path: Path) -> Iterator[IndexWriter]:
    """Open an index to write it, alone; a new one is made.

    Args:
        model_path: where a search finds the model.

    Raises:
        UserError: when the index is another model's, damaged, or being written by another process, or when
            the folder holds something else.
    """
    _make_folder(folder)
    with locked(folder / LOCK) as is_free:
        if not is_free:
            raise UserError(f"The index {folder} is being written by another process. Wait until it ends.")
        with writing(folder) as connection:
            facts = _facts_for(folder, connection, model, model_path)
            yield IndexWriter(folder, connection, facts)


def _make_folder(folder: Path) -> None:
    """Make the folder of an index.

    Raises:
        UserError: when it is a file, or holds files that are none of an index.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {folder} for the index cannot be made ({error.strerror}).") from None
    names = [name for name in os.listdir(folder) if name != LOCK]
    if names and FILE_NAME not in names:
        raise UserError(
            f"{folder} holds other files ({names[0]}) and no index. Name a folder of its own for the index."
        )


def _facts_for(
    folder: Path, connection: sqlite3.Connection, model: FingerprintedModel, model_path: Path
) -> Facts:
    """The facts of an index: those of the model where it is new.

    Raises:
        UserError: when it is another model's.
    """
    facts = facts_of(connection)
    where = str(model_path.absolute())
    if facts is None:
        facts = Facts(
            model.name, where, model.fingerprint, model.embed_dim, generation=1, version=0, writer=0
        )
        places = ", ".join("?" * len(facts))
        columns = ", ".join(Facts._fields)
        connection.execute(f"INSERT INTO facts ({columns}) VALUES ({places})", facts)
        return facts

    check_model(folder, facts, model)
    # the same model may have moved
    facts = facts._replace(model_name=model.name, model_path=where, writer=facts.writer + 1)
    connection.execute(
        "UPDATE facts SET model_name = ?, model_path = ?, writer = ?", [model.name, where, facts.writer]
    )
    return facts


def check_model(folder: Path, facts: Facts, model: FingerprintedModel) -> None:
    """Stop at a model that is not the one of an index.

    Raises:
        UserError: when it is another one; the text names both.
    """
    if facts.fingerprint == model.fingerprint:
        return
    raise UserError(
        f"The index {folder} was made by the model {facts.model_name} ({facts.fingerprint[:8]}), not by "
        f"{model.name} ({model.fingerprint[:8]}). Take that model, or another folder for this one's index."
    )
