"""Searching an index, also while another process writes it."""

import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from miniclip.data.image_content import read_content, shown_path
from miniclip.data.sources.walk import lies_within
from miniclip.deploy.index import exact
from miniclip.deploy.index.database import Facts, damaged, facts_of, reading
from miniclip.deploy.index.entries import slots_of
from miniclip.deploy.index.graph import Graph, load_graph, make_graph
from miniclip.deploy.index.places import Places
from miniclip.deploy.index.row_table import read_row
from miniclip.deploy.index.vectors import VectorFile, check_slots
from miniclip.errors import BrokenImage, UserError, at_least

Read = TypeVar("Read")

EXACT_LIMIT = 200_000
"""Up to so many vectors every one is compared with the query; above, a graph is asked for neighbors."""

MAX_TRIES = 20
"""Reads that a writer may disturb, one after the other."""

AT_ONCE = 500
"""Slots that SQLite is asked for in one statement."""

ENTRIES = """
SELECT entries.id, slot, root, name, title, kind, path, image_column
FROM entries JOIN sources ON sources.id = entries.source
"""


class _Nearest(NamedTuple):
    """Scores and slots of the images nearest to queries, each (Q, k), and the entries of these slots."""

    scores: np.ndarray
    slots: np.ndarray
    by_slot: "dict[int, Entry]"


class Entry(NamedTuple):
    """An image of an index.

    Attributes:
        id: never another image's; a changed image has a new one.
        root: absolute, the indexed folder, which the image's file must not lead out of.
        path: absolute, of the image's file, or of the table that holds it.
        row: of that table; None for a file.
        title: that a table gives it.
        image_column: of the table that holds it.
        may_open: whether this user embedded it, or named a folder that holds it; see `places`.
    """

    id: int
    root: Path
    path: Path
    row: int | None
    title: str | None
    image_column: str | None
    may_open: bool = False

    @property
    def place(self) -> Path:
        """The folder or the table that was embedded."""
        return self.root if self.row is None else self.path

    def content(self) -> bytes:
        """The content of the image's file.

        Raises:
            BrokenImage: when it is gone, cannot be read, is now a link to a place outside, or may not be
                opened.
        """
        if not self.may_open:
            raise BrokenImage(
                f"The image {shown_path(self.path)} is not opened. Name its folder: --root ..."
            )
        if self.row is None or self.image_column is None:
            if not lies_within(os.path.realpath(self.root), self.path):
                raise BrokenImage(
                    f"The image {shown_path(self.path)} is a link out of its folder {self.root}."
                )
            return read_content(self.path)
        return read_row(self.path, self.row, self.image_column)

    def __str__(self) -> str:
        return str(self.path) if self.row is None else f"{self.path}, row {self.row}"


class Found(NamedTuple):
    """What a search finds for each query, best first.

    Attributes:
        scores: for each query (n,) float32, cosines.
        entries: for each query n entries.
    """

    scores: list[np.ndarray]
    entries: list[list[Entry]]


class Snapshot(NamedTuple):
    """The vectors of an index at one commit.

    Attributes:
        facts: at that commit.
        slots: (N,) int64, ascending: those in use.
        versions: (N,) int64, of the commit that wrote each.
        vectors: (S, D) float16, all slots; or (N, D) float32 in memory, those in use.
        in_memory: which of these.
    """

    facts: Facts
    slots: np.ndarray
    versions: np.ndarray
    vectors: np.ndarray
    in_memory: bool

    def nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best of all; see `exact.nearest`."""
        if not self.in_memory:
            return exact.nearest(queries, self.vectors, self.slots, k)
        scores, places = exact.nearest(queries, self.vectors, np.arange(len(self.slots)), k)
        return scores, self.slots[places]


class Index:
    """An index to search; several threads may do so at a time.

    Each search sees the last commit of a writer whole, whatever it does meanwhile.

    Args:
        folder: of the index.
        exact_limit: number of vectors above which a graph of neighbors is used.
        in_memory: keep the vectors as float32, (N, D) in four bytes each: faster from the second search on.
        roots: folders whose images may be opened though another user embedded them.

    Raises:
        UserError: when there is no index, or a damaged one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        exact_limit: int = EXACT_LIMIT,
        in_memory: bool = False,
        roots: Sequence[Path] = (),
    ):
        self.folder = folder
        self.places = Places(folder, roots)
        self.exact_limit = exact_limit
        self.in_memory = in_memory
        self._last: Snapshot | None = None
        self._graph: tuple[int, Graph] | None = None
        with reading(folder) as connection:
            self._snapshot(connection)

    @property
    def facts(self) -> Facts:
        """Of the last commit."""
        with reading(self.folder) as connection:
            return self._facts(connection)

    def __len__(self) -> int:
        with reading(self.folder) as connection:
            return connection.execute("SELECT count(*) FROM entries").fetchone()[0]

    def search(self, queries: np.ndarray, *, k: int = 10, threshold: float | None = None) -> Found:
        """The images nearest to each query.

        Args:
            queries: (Q, D), of length 1.
            k: the most images of a query.
            threshold: the lowest score of an image; None for any.

        Raises:
            UserError: when a query is no finite vector of the index's length, or a vector of the index is
                not finite.
        """
        at_least("k", k, 1)
        queries = np.asarray(queries, np.float32)

        def nearest(connection: sqlite3.Connection) -> tuple[Facts, _Nearest]:
            snapshot = self._snapshot(connection)
            self._check_queries(queries, snapshot.facts)
            scores, slots = self._nearest(snapshot, queries, k)
            if not np.isfinite(scores).all():
                raise damaged(self.folder, "it holds vectors that are not finite")
            return snapshot.facts, _Nearest(scores, slots, _entries_at(connection, np.unique(slots)))

        scores, slots, entries = self._undisturbed(nearest)
        by_slot = {slot: self._with_right(entry) for slot, entry in entries.items()}
        return _above(threshold, scores, slots, by_slot)

    def _check_queries(self, queries: np.ndarray, facts: Facts) -> None:
        if queries.ndim != 2 or queries.shape[1] != facts.embed_dim:
            raise UserError(
                f"The index {self.folder} takes queries (Q, {facts.embed_dim}), not {queries.shape}. "
                f"Encode them by the model that made it, {facts.model_name}."
            )
        if not np.isfinite(queries).all():
            raise UserError(
                "A query is not finite: the weights of the model that encoded it are damaged, or its "
                "training has diverged."
            )

    def entry(self, number: int) -> Entry | None:
        """The entry of an `id`, if there is one."""
        with reading(self.folder) as connection:
            row = connection.execute(f"{ENTRIES} WHERE entries.id = ?", [number]).fetchone()
            return None if row is None else self._with_right(_entry(row))

    def closed_places(self) -> list[Path]:
        """Folders and tables of other users' making, whose images are not opened."""
        with reading(self.folder) as connection:
            rows = connection.execute("SELECT kind, root, path FROM sources ORDER BY id").fetchall()
            places = [_path(root if kind == "files" else path) for kind, root, path in rows]
        return [each for each in places if not self.places.is_own(each) and not self.places.is_named(each)]

    def vector(self, number: int) -> np.ndarray | None:
        """The vector (D,) float32 of the entry of an `id`, if there is one."""

        def vector_of(connection: sqlite3.Connection) -> tuple[Facts, np.ndarray | None]:
            facts = self._facts(connection)
            row = connection.execute("SELECT slot FROM entries WHERE id = ?", [number]).fetchone()
            if row is None:
                return facts, None
            vectors = _mapped(self.folder, facts)
            check_slots(self.folder, len(vectors), row[0], row[0])
            return facts, vectors[row[0]].astype(np.float32)

        return self._undisturbed(vector_of)

    def _undisturbed(self, read: Callable[[sqlite3.Connection], tuple[Facts, Read]]) -> Read:
        """What is read of vectors and of entries at one commit, again while a writer disturbs it.

        Args:
            read: gives what it found, and the facts that it saw.

        Raises:
            UserError: when a writer always does.
        """
        for _ in range(MAX_TRIES):
            try:
                with reading(self.folder) as connection:
                    facts, found = read(connection)
            except FileNotFoundError:  # the file of vectors has been packed since the facts were read
                continue

            # a slot that was freed since may have been written again, but by a later writer only
            if self.facts.writer == facts.writer:
                return found
        raise UserError(f"The index {self.folder} changes too fast to be read. Try again in a moment.")

    def _with_right(self, entry: Entry) -> Entry:
        return entry._replace(may_open=self.places.may_open(entry.place, entry.path))

    def _facts(self, connection: sqlite3.Connection) -> Facts:
        facts = facts_of(connection)
        if facts is None:
            raise UserError(
                f"The index {self.folder} is empty. Fill it: miniclip embed MODEL FOLDER -o ..."
            )
        return facts

    def _snapshot(self, connection: sqlite3.Connection) -> Snapshot:
        """The vectors at the commit that a connection sees; the last ones where nothing has changed."""
        facts = self._facts(connection)
        last = self._last
        if last is not None and last.facts == facts:
            return last

        slots, versions = slots_of(connection)
        vectors = _mapped(self.folder, facts)
        if len(slots):
            check_slots(self.folder, len(vectors), slots[0], slots[-1])
        if self.in_memory:
            vectors = vectors[slots].astype(np.float32)
        self._last = Snapshot(facts, slots, versions, vectors, self.in_memory)
        return self._last

    def _nearest(self, snapshot: Snapshot, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if len(snapshot.slots) <= self.exact_limit:
            return snapshot.nearest(queries, k)
        graph = self._graph_of(snapshot)
        vectors = _mapped(self.folder, snapshot.facts)
        return graph.nearest(queries, vectors, snapshot.slots, snapshot.versions, k)

    def _graph_of(self, snapshot: Snapshot) -> Graph:
        """The graph of neighbors: the last one, that of the folder, or a new one."""
        generation = snapshot.facts.generation
        made_for, graph = self._graph or (None, None)
        if graph is not None and made_for == generation and graph.suits(snapshot.versions):
            return graph
        graph = graph_of(self.folder, snapshot.facts, snapshot.slots, snapshot.versions)
        self._graph = generation, graph
        return graph


def graph_of(folder: Path, facts: Facts, slots: np.ndarray, versions: np.ndarray) -> Graph:
    """The graph of neighbors that suits entries, out of the folder or made anew."""
    graph = load_graph(folder, facts.generation, facts.embed_dim)
    if graph is not None and graph.suits(versions):
        return graph
    return make_graph(folder, facts.generation, facts.version, _mapped(folder, facts), slots)


def all_entries(connection: sqlite3.Connection) -> dict[int, Entry]:
    """Every entry by its slot, in the order of the slots."""
    return {row[1]: _entry(row) for row in connection.execute(f"{ENTRIES} ORDER BY slot")}


def _mapped(folder: Path, facts: Facts) -> np.ndarray:
    """All vectors on the disk.

    Raises:
        FileNotFoundError: when they have been packed into another file since the facts were read.
        UserError: when their file is missing.
    """
    try:
        return VectorFile(folder, facts.generation, facts.embed_dim).mapped()
    except FileNotFoundError as error:
        with reading(folder) as connection:
            if facts_of(connection) == facts:
                raise damaged(folder, f"{os.path.basename(error.filename)} is missing") from None
        raise


def _entries_at(connection: sqlite3.Connection, slots: np.ndarray) -> dict[int, Entry]:
    entries = {}
    for start in range(0, len(slots), AT_ONCE):
        part = slots[start : start + AT_ONCE].tolist()
        places = ", ".join("?" * len(part))
        for row in connection.execute(f"{ENTRIES} WHERE slot IN ({places})", part):
            entries[row[1]] = _entry(row)
    return entries


def _entry(row: Sequence) -> Entry:
    """The entry of a row of `ENTRIES`.

    Raises:
        DatabaseError: when a stranger's file holds other types than an index has.
    """
    try:
        return _entry_of(row)
    except (TypeError, ValueError) as error:
        raise sqlite3.DatabaseError(f"entry {row[0]}: {error}") from None


def _entry_of(row: Sequence) -> Entry:
    number, _, root, name, title, kind, path, image_column = row
    folder = _path(root)
    if kind == "rows":
        return Entry(number, folder, _path(path), int(name), title, image_column)
    return Entry(number, folder, folder / os.fsdecode(name), None, title, None)


def _path(name: object) -> Path:
    if not isinstance(name, str | bytes):
        raise sqlite3.DatabaseError("the place of its images is no path")
    return Path(os.fsdecode(name))


def _above(
    threshold: float | None, scores: np.ndarray, slots: np.ndarray, by_slot: dict[int, Entry]
) -> Found:
    """The scores, down to the threshold, and the entries they belong to."""
    found = Found([], [])
    for row_of_scores, row_of_slots in zip(scores, slots, strict=True):
        count = len(row_of_scores) if threshold is None else int((row_of_scores >= threshold).sum())
        found.scores.append(row_of_scores[:count])
        found.entries.append([by_slot[int(slot)] for slot in row_of_slots[:count]])
    return found
