"""Writing an index: vectors first, then the commit that points at them."""

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from miniclip.deploy.index import graph as graphs
from miniclip.deploy.index import vectors as vector_files
from miniclip.deploy.index.database import FILE_NAME, Facts, facts_of, writing
from miniclip.deploy.index.entries import Encoded, EntryTable, slots_of
from miniclip.deploy.index.places import Places
from miniclip.deploy.index.slots import Slots
from miniclip.deploy.index.source import ImageSource, SourceImage
from miniclip.deploy.index.vectors import VectorFile
from miniclip.embedding_model import FingerprintedModel
from miniclip.errors import UserError
from miniclip.files import locked

LOCK = ".lock"


class IndexWriter:
    """The one writer of an index; see `open_writer`.

    A slot that a commit points at is never written: new vectors go to free slots and to the end of the
    file, and are on the disk before the commit. So an index is whole whenever the process is killed.
    Slots that this writer frees are left to the next one.

    Attributes:
        entries: the rows of the tables.
        slot_of_digest: where the vector of each image is that the index holds, or held when it was opened.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection, facts: Facts):
        self.folder = folder
        self.connection = connection
        self.facts = facts
        self.entries = EntryTable(connection)
        self._places = Places(folder)
        self._open_slots()

    def source(self, source: ImageSource) -> int:
        """The number of a source, which is new or known; its images may be opened from now on."""
        self._places.add(source.root if source.kind == "files" else source.path)
        return self.entries.source(
            source.path, kind=source.kind, root=source.root, image_column=source.image_column
        )

    def decodes_at(self, size: int) -> bool:
        """Whether all JPEGs of the index were decoded at this size; an index without images takes it.

        Args:
            size: the shortest side, pixels. It is SQLite's number of the application, 0 in older indexes.
        """
        if not self.slot_of_digest:
            self.connection.execute(f"PRAGMA application_id = {size:d}")
        return self.connection.execute("PRAGMA application_id").fetchone()[0] == size

    def vector(self, digest: bytes) -> np.ndarray:
        """The vector (D,) float16 of the image of a digest in `slot_of_digest`."""
        return self._slots.read(self.slot_of_digest[digest])

    def put(
        self, source: int, encoded: Sequence[Encoded], *, broken: Sequence[tuple[SourceImage, str]] = ()
    ) -> None:
        """Commit new and changed images, and those that could not be read, with the reason.

        Raises:
            UserError: when a vector is not finite.
        """
        slots = self._slots.take(len(encoded))
        if encoded:
            vectors = np.stack([one.vector for one in encoded])  # (N, D)
            self._check(vectors, encoded)
            self._slots.write(slots, vectors)

        with self._commit():
            self.entries.delete(source, (one.image.name for one in encoded))
            self.entries.delete(source, (image.name for image, _ in broken))
            self.entries.insert(source, encoded, slots, version=self.facts.version + 1)
            self.entries.insert_broken(source, broken)
        self.slot_of_digest |= {one.digest: slot for one, slot in zip(encoded, slots, strict=True)}

    def drop(self, source: int, names: Collection[str]) -> None:
        """Commit that images are gone."""
        if not names:
            return
        with self._commit():
            self.entries.delete(source, names)

    def forget(self, source: int) -> None:
        """Commit that a source and all its images are gone."""
        with self._commit():
            self.entries.delete_source(source)

    def pack(self) -> bool:
        """Move all vectors to the beginning of a new file where many slots are free; whether it did."""
        used, _ = slots_of(self.connection)
        if not self._slots.are_sparse(len(used)):
            return False

        packed = VectorFile(self.folder, self.facts.generation + 1, self.facts.embed_dim)
        packed.path.unlink(missing_ok=True)
        packed.create()
        packed.write(range(len(used)), self._slots.file.mapped()[used])

        with self._commit(new_generation=True):
            self.entries.close_up(used)
        self._open_slots()
        return True

    def _open_slots(self) -> None:
        """The vectors of the present generation; files of other ones are removed."""
        used, _ = slots_of(self.connection)
        self._slots = Slots(self.folder, self.facts, used)
        self.slot_of_digest = self.entries.slot_of_digest()
        self._remove_others()

    def _remove_others(self) -> None:
        """Remove files of other generations, which a killed process or an open reader has left."""
        own = self._slots.file.path
        others = [path for path in self.folder.glob(vector_files.PATTERN) if path != own]
        for path in self.folder.glob(graphs.PATTERN):
            if not path.name.startswith(f"graph-{self.facts.generation}-"):
                others.append(path)

        for path in others:
            with contextlib.suppress(OSError):  # open on Windows
                path.unlink()

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

    def _check(self, vectors: np.ndarray, encoded: Sequence[Encoded]) -> None:
        """Stop at vectors that are not finite."""
        is_finite = np.isfinite(vectors).all(axis=1)  # (N,)
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
            Places(folder).add_model(model_path.absolute())
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
        identity = _with_precision(model.fingerprint)
        # random, for who still reads a former index of this folder knows by its facts that it is another
        generation = 1 + secrets.randbelow(2**31)
        facts = Facts(model.name, where, identity, model.embed_dim, generation, version=0, writer=0)
        # before the facts that name it, so that an index is whole also when it is killed in between
        VectorFile(folder, facts.generation, facts.embed_dim).create()

        places = ", ".join("?" * len(facts))
        columns = ", ".join(Facts._fields)
        connection.execute(f"INSERT INTO facts ({columns}) VALUES ({places})", facts)
        return facts

    check_model(folder, facts, model)
    # the same model may have moved, and an older index does not know its precision
    facts = facts._replace(
        model_name=model.name,
        model_path=where,
        fingerprint=_with_precision(model.fingerprint),
        writer=facts.writer + 1,
    )
    connection.execute(
        "UPDATE facts SET model_name = ?, model_path = ?, fingerprint = ?, writer = ?",
        [facts.model_name, facts.model_path, facts.fingerprint, facts.writer],
    )
    return facts


def check_model(folder: Path, facts: Facts, model: FingerprintedModel) -> None:
    """Stop at a model that is not the one of an index, or is exported in another precision.

    An index of an older version does not know in which precision its vectors were made, and takes all.

    Raises:
        UserError: when it is another one; the text names both.
    """
    digest, _, precision = facts.fingerprint.partition("-")
    own_digest, _, own_precision = _with_precision(model.fingerprint).partition("-")
    if digest == own_digest and precision in ("", own_precision):
        return

    if digest == own_digest:
        raise UserError(
            f"The index {folder} was made by {facts.model_name} in {precision}, whose vectors do not mix "
            f"with those of {own_precision}. Take the model in {precision} ({facts.model_path}), or "
            "another folder for this one's index."
        )
    raise UserError(
        f"The index {folder} was made by the model {facts.model_name} ({digest[:8]}), not by "
        f"{model.name} ({own_digest[:8]}). Take that model, or another folder for this one's index."
    )


def _with_precision(fingerprint: str) -> str:
    """A model's fingerprint as an index keeps it: with the precision, also where that is float32."""
    return fingerprint if "-" in fingerprint else f"{fingerprint}-fp32"
