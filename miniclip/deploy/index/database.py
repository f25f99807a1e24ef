"""The table of an index: which images it holds, and where in the file of vectors each one's vector is.

SQLite in write-ahead mode: one process writes, any number read, and each of these sees one commit whole.
"""

import os
import sqlite3
import urllib.parse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from miniclip.errors import UserError

FILE_NAME = "index.sqlite"

FORMAT = 1
"""Of the tables below."""

BUSY_SECONDS = 30.0
"""How long a commit of another process is waited for."""

LARGEST = 2**62
"""Of the numbers of an index, which SQLite can still raise."""

LARGEST_DIM = 2**24
"""Numbers of a vector; NumPy makes no array of any length."""

TABLES = """
CREATE TABLE facts (
    model_name TEXT NOT NULL,
    model_path TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    embed_dim INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    version INTEGER NOT NULL,
    writer INTEGER NOT NULL
);
CREATE TABLE sources (
    id INTEGER PRIMARY KEY,
    path BLOB NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    root BLOB NOT NULL,
    image_column TEXT,
    size INTEGER,
    mtime_ns INTEGER
);
CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    source INTEGER NOT NULL REFERENCES sources (id),
    name BLOB NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    title TEXT,
    digest BLOB NOT NULL,
    slot INTEGER NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    UNIQUE (source, name)
);
CREATE TABLE broken (
    source INTEGER NOT NULL REFERENCES sources (id),
    name BLOB NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (source, name)
);
"""
"""File names are BLOBs, since those of POSIX need not be text. `slot` is a row of the file of vectors."""


class Facts(NamedTuple):
    """What holds for a whole index.

    Attributes:
        model_name, model_path, fingerprint, embed_dim: of the model that made the vectors.
        generation: number of the file of vectors, raised when it is packed.
        version: raised by every commit that changes an entry.
        writer: raised by every writer before it writes over slots that were free when it came.
    """

    model_name: str
    model_path: str
    fingerprint: str
    embed_dim: int
    generation: int
    version: int
    writer: int


@contextmanager
def reading(folder: Path) -> Iterator[sqlite3.Connection]:
    """A connection that sees the last commit, and nothing that is committed later.

    Raises:
        UserError: when the folder holds no index, or a damaged one.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise UserError(
            f"{folder} holds no index. Make one with: miniclip embed MODEL FOLDER_OF_IMAGES -o {folder}"
        )

    with _damage_told(folder), closing(_connected(path, _how_to_read(path))) as connection:
        connection.execute("BEGIN")
        _check_format(connection, path)
        yield connection


def _how_to_read(path: Path) -> str:
    """SQLite reads what it may not write beside files of a writer, or as a file that nobody changes."""
    has_writer = path.with_name(f"{FILE_NAME}-wal").exists()  # of another user, or it was killed
    return "mode=ro" if has_writer or os.access(path.parent, os.W_OK) else "immutable=1"


@contextmanager
def writing(folder: Path) -> Iterator[sqlite3.Connection]:
    """A connection that commits by itself what is not between BEGIN and COMMIT; makes the tables.

    Raises:
        UserError: when the index is damaged.
    """
    path = folder / FILE_NAME
    with _damage_told(folder), closing(_connected(path, "mode=rwc")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
            _make_tables(connection)
        _check_format(connection, path)

        ((answer,), *_) = connection.execute("PRAGMA quick_check(1)").fetchall()
        if answer != "ok":
            raise sqlite3.DatabaseError(answer)
        yield connection


def facts_of(connection: sqlite3.Connection) -> Facts | None:
    """The facts; None where nothing has been written yet."""
    row = connection.execute(f"SELECT {', '.join(Facts._fields)} FROM facts").fetchone()
    if row is None:
        return None

    facts = Facts(*row)
    texts = facts.model_name, facts.model_path, facts.fingerprint
    numbers = facts.embed_dim, facts.generation, facts.version, facts.writer
    is_plain = all(isinstance(text, str) for text in texts) and all(type(n) is int for n in numbers)
    # SQLite keeps any type in any column, and the generation is a part of a file's name
    is_in_range = is_plain and min(numbers) >= 0 and max(numbers) <= LARGEST
    if not is_in_range or not 1 <= facts.embed_dim <= LARGEST_DIM:
        raise sqlite3.DatabaseError("its facts are not those of an index")
    return facts


def damaged(folder: Path, what: object) -> UserError:
    """The error that tells of a damaged index, and what to do."""
    return UserError(
        f"The index {folder} is damaged: {what}. Remove the folder and embed the images again."
    )


def _connected(path: Path, how: str) -> sqlite3.Connection:
    place = urllib.parse.quote(os.fsencode(path.absolute()))
    connection = sqlite3.connect(
        f"file:{place}?{how}",
        uri=True,
        isolation_level=None,
        timeout=BUSY_SECONDS,
        check_same_thread=False,
    )
    # a stranger's file may hold more than data
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _make_tables(connection: sqlite3.Connection) -> None:
    """All of them, or none when the process dies."""
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise sqlite3.DatabaseError("its tables are not those of an index")
    connection.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {FORMAT}; COMMIT;")


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > FORMAT:
        raise UserError(
            f"{path} was made by a newer MiniCLIP (format {found}). Update MiniCLIP to read it."
        )
    if found == FORMAT and _schema_of(connection) != _own_schema():
        raise sqlite3.DatabaseError("it holds other tables than an index, or views or triggers")
    if found == 0:
        raise UserError(f"{path} is empty. Fill it with: miniclip embed MODEL FOLDER -o {path.parent}")


def _schema_of(connection: sqlite3.Connection) -> set[tuple[str, ...]]:
    """What a file declares, but for what SQLite makes by itself."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    return {
        (kind, name, table, " ".join(str(sql).split()))
        for kind, name, table, sql in rows
        if not (kind in ("table", "index") and str(name).startswith("sqlite_"))
    }


@cache
def _own_schema() -> set[tuple[str, ...]]:
    """What `TABLES` declare."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(TABLES)
        return _schema_of(connection)


@contextmanager
def _damage_told(folder: Path) -> Iterator[None]:
    """Tell what SQLite finds in one line."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if str(error).startswith(("no such", "table ")):
            raise damaged(folder, f"{FILE_NAME} has other tables ({error})") from None
        raise UserError(
            f"The index {folder} cannot be used ({error}). Is the disk full, or the folder another user's?"
        ) from None
    except sqlite3.DatabaseError as error:
        reason = " ".join(str(error).split())  # of several lines
        raise damaged(folder, f"{FILE_NAME} cannot be read ({reason})") from None
