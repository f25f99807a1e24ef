"""Searching: as by brute force, exactly and by a graph, and beside a writer."""

import json
import os
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import usearch.index

from miniclip.deploy.index import Index, exact, open_source, open_writer, reader, update
from miniclip.deploy.index.entries import Encoded
from miniclip.deploy.index.source import SourceImage
from miniclip.deploy.index.writer import IndexWriter
from miniclip.errors import BrokenImage, UserError
from tests.deploy.index.conftest import expected_vectors, save_photo, vectors_by_name
from tests.deploy.index.projection import ProjectionModel, embed, normalized


def unit_vectors(count: int, *, seed: int = 0, size: int = 24) -> np.ndarray:
    """Random vectors (count, size) of length 1."""
    return normalized(np.random.default_rng(seed).standard_normal((count, size)))


def put(writer: IndexWriter, vectors: np.ndarray, *, first: int = 0) -> None:
    """Write vectors under the names /n0, /n1, ... in place of what has these names."""
    source = writer.entries.source(Path("/"), kind="files", root=Path("/"), image_column=None)
    writer.put(
        source,
        [
            Encoded(SourceImage(f"n{first + number}", number, 0), b"%d" % number, vector)
            for number, vector in enumerate(vectors)
        ],
    )


def index_of(folder: Path, vectors: np.ndarray) -> Path:
    """An index of vectors."""
    with open_writer(folder, ProjectionModel(), model_path=Path("projection")) as writer:
        put(writer, vectors)
    return folder


def by_brute_force(folder: Path, query: np.ndarray, k: int) -> list[str]:
    """Names of the nearest images, each compared by itself."""
    scores = {name: float(vector @ query) for name, vector in vectors_by_name(folder).items()}
    return sorted(scores, key=lambda name: -scores[name])[:k]


def names_of(index: Index, queries: np.ndarray, k: int) -> list[list[str]]:
    return [[str(entry) for entry in entries] for entries in index.search(queries, k=k).entries]


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("k", [1, 7, 300, 1000])
def test_exact_search_is_brute_force(
    k: int, in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miniclip.deploy.index.exact.AT_ONCE", 64)
    folder = index_of(tmp_path / "index", unit_vectors(300))
    queries = unit_vectors(3, seed=1)
    found = names_of(Index(folder, in_memory=in_memory), queries, k)
    assert found == [by_brute_force(folder, query, k) for query in queries]


@pytest.mark.parametrize("k", [1, 7, 300])
def test_search_by_a_graph_is_nearly_brute_force(k: int, tmp_path: Path) -> None:
    folder = index_of(tmp_path / "index", unit_vectors(300))
    queries = unit_vectors(3, seed=1)
    index = Index(folder, exact_limit=100)
    for found, query in zip(names_of(index, queries, k), queries, strict=True):
        order = by_brute_force(folder, query, 300)
        # threads make the graph, each time another one, which may miss a neighbor
        assert len(set(found) & set(order[:k])) >= max(1, k - 1)
        assert len(found) == k and found == sorted(found, key=order.index)
    assert len(list(folder.glob("graph-*"))) == 1


def test_a_graph_is_right_after_changes_and_made_anew_after_many(tmp_path: Path) -> None:
    folder = index_of(tmp_path / "index", unit_vectors(300))
    queries = unit_vectors(3, seed=1)
    index = Index(folder, exact_limit=100)
    index.search(queries)
    (first,) = folder.glob("graph-*")

    with open_writer(folder, ProjectionModel(), model_path=Path("projection")) as writer:
        put(writer, queries[:2], first=290)
        writer.drop(1, ["n1", "n2", "n3"])
    for found, query in zip(names_of(index, queries, 9), queries, strict=True):
        assert len(set(found) & set(by_brute_force(folder, query, 9))) >= 8  # neighbors are likely ones
        assert len(found) == 9 and not {"/n1", "/n2", "/n3"} & set(found)
    assert names_of(index, queries[:2], 1) == [["/n290"], ["/n291"]]
    assert list(folder.glob("graph-*")) == [first]

    with open_writer(folder, ProjectionModel(), model_path=Path("projection")) as writer:
        put(writer, unit_vectors(100, seed=2), first=50)
    for found, query in zip(names_of(Index(folder, exact_limit=100), queries, 9), queries, strict=True):
        assert len(set(found) & set(by_brute_force(folder, query, 9))) >= 8
    assert list(folder.glob("graph-*")) != [first]


def test_a_damaged_graph_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = index_of(tmp_path / "index", unit_vectors(300))
    query = unit_vectors(1, seed=1)
    expected = names_of(Index(folder, exact_limit=100), query, 5)
    (graph,) = folder.glob("graph-*")
    graph.write_bytes(graph.read_bytes()[:1000])
    assert names_of(Index(folder, exact_limit=100), query, 5) == expected
    assert "is damaged" in caplog.text


def test_a_strangers_graph_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = index_of(tmp_path / "index", unit_vectors(300))
    query = unit_vectors(1, seed=1)
    expected = names_of(Index(folder, exact_limit=100), query, 5)
    (graph,) = folder.glob("graph-*")
    number = graph.stem.split("-")[1]
    (folder / f"graph-{number}-x.usearch").write_bytes(b"of no version")
    assert names_of(Index(folder, exact_limit=100), query, 5) == expected

    other = usearch.index.Index(ndim=12, metric="ip", dtype="f16")
    other.add(np.arange(300), unit_vectors(300, size=12))
    other.save(str(graph))
    assert names_of(Index(folder, exact_limit=100), query, 5) == expected
    assert "is damaged" in caplog.text


def test_the_threshold_is_the_lowest_score(tmp_path: Path) -> None:
    folder = index_of(tmp_path / "index", unit_vectors(50))
    queries = np.concatenate([unit_vectors(50)[:1], -unit_vectors(50)[:1]])
    found = Index(folder).search(queries, k=50, threshold=0.3)
    everything = Index(folder).search(queries, k=50)
    for scores, all_scores in zip(found.scores, everything.scores, strict=True):
        assert scores.tolist() == [score for score in all_scores if score >= 0.3]
        assert sorted(all_scores, reverse=True) == all_scores.tolist()
    assert found.scores[0][0] == pytest.approx(1, abs=1e-3)


def test_an_entry_is_found_by_its_number(photos: Path, tmp_path: Path) -> None:
    embed(tmp_path / "index", photos)
    index = Index(tmp_path / "index")
    vectors = vectors_by_name(tmp_path / "index")
    for entry in index.search(unit_vectors(1), k=100).entries[0]:
        assert index.entry(entry.id) == entry
        assert np.array_equal(index.vector(entry.id), vectors[str(entry)])
        assert entry.content() == entry.path.read_bytes()
    assert index.entry(999) is None and index.vector(999) is None


def test_a_vector_that_was_cut_off_is_told(tmp_path: Path) -> None:
    folder = index_of(tmp_path / "index", unit_vectors(4))
    index = Index(folder)
    (vectors,) = folder.glob("vectors-*")
    vectors.write_bytes(vectors.read_bytes()[:100])
    assert index.vector(2) is not None
    with pytest.raises(UserError, match="is damaged: its vectors are cut off, 2 where 4 belong"):
        index.vector(4)

    with closing(sqlite3.connect(folder / "index.sqlite")) as connection:
        connection.execute("UPDATE entries SET slot = -1 WHERE id = 2")
        connection.commit()
    with pytest.raises(UserError, match="slot -1 is none"):
        index.vector(2)


@pytest.mark.parametrize(
    ("queries", "k", "said"),
    [
        (np.full((1, 24), np.nan), 2, "A query is not finite"),
        (np.ones((1, 12)), 2, r"queries \(Q, 24\), not \(1, 12\)"),
        (np.ones(24), 2, r"queries \(Q, 24\), not \(24,\)"),
        (np.ones((1, 24)), 0, "k=0: must be at least 1"),
    ],
)
def test_a_query_that_is_none_is_told(queries: np.ndarray, k: int, said: str, tmp_path: Path) -> None:
    index = Index(index_of(tmp_path / "index", unit_vectors(4)))
    with pytest.raises(UserError, match=said):
        index.search(queries, k=k)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE entries SET slot = 'x' WHERE id = 2",
        "UPDATE entries SET slot = 1.5 WHERE id = 2",
        "UPDATE entries SET slot = 1 << 40 WHERE id = 2",
        "UPDATE entries SET slot = -1 WHERE id = 2",
        "UPDATE entries SET version = 'x' WHERE id = 2",
        "UPDATE entries SET title = x'ff' WHERE id = 2",
        "UPDATE entries SET name = 5 WHERE id = 2",
        "UPDATE facts SET version = 9223372036854775807",
        "UPDATE facts SET embed_dim = 4611686018427387904",
        "DELETE FROM sources",
    ],
)
def test_entries_of_a_stranger_that_are_none_are_told(change: str, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    embed(folder, photos)
    with closing(sqlite3.connect(folder / "index.sqlite")) as connection:
        connection.execute(change)
        connection.commit()
    with pytest.raises(UserError, match="is damaged"):
        Index(folder)
    with pytest.raises(UserError, match="is damaged"):
        embed(folder, photos)


def test_vectors_that_are_not_finite_are_told(tmp_path: Path) -> None:
    folder = index_of(tmp_path / "index", unit_vectors(4))
    (file,) = folder.glob("vectors-*")
    vectors = np.fromfile(file, "<f2").reshape(4, 24)
    vectors[2] = np.nan
    vectors.tofile(file)
    with pytest.raises(UserError, match="is damaged: it holds vectors that are not finite"):
        Index(folder).search(unit_vectors(1), k=1)


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_open_index_sees_that_it_was_made_anew(tmp_path: Path, in_memory: bool) -> None:
    vectors = unit_vectors(4)
    index = Index(index_of(tmp_path / "index", vectors), in_memory=in_memory)
    assert names_of(index, vectors[:1], 1) == [["/n0"]]
    shutil.rmtree(tmp_path / "index")
    index_of(tmp_path / "index", vectors[::-1])
    assert names_of(index, vectors[:1], 1) == [["/n3"]]


def test_an_open_index_sees_each_commit(photos: Path, tmp_path: Path) -> None:
    embed(tmp_path / "index", photos)
    index = Index(tmp_path / "index", in_memory=True)
    assert len(index) == len(index.search(unit_vectors(1), k=100).entries[0]) == 10
    save_photo(photos / "new.png", 100)
    embed(tmp_path / "index", photos)
    assert len(index) == len(index.search(unit_vectors(1), k=100).entries[0]) == 11


@pytest.mark.parametrize("in_memory", [False, True])
def test_readers_beside_a_writer_see_whole_commits(
    in_memory: bool, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every score is that of its image, while slots are freed, written again and packed."""
    monkeypatch.setattr("miniclip.deploy.index.slots.MIN_FREE", 3)
    model, folder = ProjectionModel(), tmp_path / "index"
    pool = tmp_path / "pool"
    for number in range(30):
        save_photo(pool / f"{number}.png", number)
    vectors = {Path(name).name: vector for name, vector in expected_vectors(pool).items()}
    embed(folder, photos)
    is_over = threading.Event()

    def write() -> None:
        for turn in range(25):
            for number in range(30):
                path = photos / f"{number}.png"
                path.unlink(missing_ok=True)
                if (number + turn) % 3:
                    save_photo(path, number)
            with open_writer(folder, model, model_path=Path("m")) as writer:
                update(writer, model, [open_source(photos)], batch_size=2)
                writer.pack()
        is_over.set()

    thread = threading.Thread(target=write)
    thread.start()
    index = Index(folder, in_memory=in_memory)
    num_searches = 0
    while not is_over.is_set():
        query = unit_vectors(1, seed=num_searches)
        found = index.search(query, k=100)
        expected = [float(vectors[entry.path.name] @ query[0]) for entry in found.entries[0]]
        np.testing.assert_allclose(found.scores[0], expected, atol=2e-3)
        num_searches += 1
    thread.join()
    assert num_searches > 20


def test_a_search_that_a_writer_overtakes_is_repeated(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot is freed and written again after the index was read and before its vectors are."""
    folder = tmp_path / "index"
    embed(folder, photos)
    index = Index(folder)
    nearest = exact.nearest
    overtaken = []

    def overtaken_once(*arguments: Any) -> Any:
        if not overtaken:
            overtaken.append(True)
            for number in (1, 3, 5):
                (photos / f"{number}.png").unlink()
            embed(folder, photos)
            for number in (21, 23, 25):
                save_photo(photos / f"{number}.png", number)
            embed(folder, photos)
        return nearest(*arguments)

    monkeypatch.setattr(exact, "nearest", overtaken_once)
    query = unit_vectors(1)
    found = index.search(query, k=100)
    expected = expected_vectors(photos)
    assert {str(entry) for entry in found.entries[0]} == expected.keys()
    scores = [float(expected[str(entry)] @ query[0]) for entry in found.entries[0]]
    np.testing.assert_allclose(found.scores[0], scores, atol=2e-3)


def test_vectors_that_a_writer_has_packed_meanwhile_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of vectors is gone when it is opened by the facts that were read before."""
    monkeypatch.setattr("miniclip.deploy.index.slots.MIN_FREE", 3)
    vectors = unit_vectors(20)
    folder = index_of(tmp_path / "index", vectors)
    index = Index(folder)
    (entry,) = index.search(vectors[-1:], k=1).entries[0]
    mapped = reader._mapped
    packed = []

    def packed_before(*arguments: Any) -> np.ndarray:
        if not packed:
            with open_writer(folder, ProjectionModel(), model_path=Path("projection")) as writer:
                writer.drop(1, [f"n{number}" for number in range(10)])
                packed.append(writer.pack())
        return mapped(*arguments)

    monkeypatch.setattr(reader, "_mapped", packed_before)
    vector = index.vector(entry.id)
    assert packed == [True] and vector is not None
    np.testing.assert_allclose(vector, vectors[-1], atol=1e-3)


def test_an_image_that_became_a_link_to_another_place_is_not_read(photos: Path, tmp_path: Path) -> None:
    embed(tmp_path / "index", photos)
    index = Index(tmp_path / "index")
    entry = index.search(np.ones((1, 24), np.float32), k=1).entries[0][0]
    secret = tmp_path / "secret.png"
    entry.path.rename(secret)
    entry.path.symlink_to(secret)
    with pytest.raises(BrokenImage, match="is a link out of"):
        entry.content()


def as_of_a_stranger(index: Path) -> Path:
    """An index as it comes from another machine: signed by a key that is not here."""
    (index / "signatures.json").write_text(json.dumps(["0" * 64]))
    return index


def test_a_strangers_index_opens_only_what_the_user_names(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    embed(folder, photos)
    query = np.ones((1, 24), np.float32)
    assert Index(folder).closed_places() == []
    as_of_a_stranger(folder)

    closed = Index(folder)
    entries = closed.search(query, k=10).entries[0]
    assert closed.closed_places() == [photos] and len(entries) == 10
    for entry in (*entries, closed.entry(1)):
        assert entry is not None
        with pytest.raises(BrokenImage, match="is not opened"):
            entry.content()

    partly = Index(folder, roots=[photos / "trip"])
    entries = partly.search(query, k=10).entries[0]
    assert sorted(e.path.parent.name for e in entries if e.may_open) == ["trip"] * 5

    embed(folder, photos)
    assert Index(folder).closed_places() == [] and Index(folder).search(query).entries[0][0].content()


def test_a_strangers_index_may_load_a_model_in_its_folder_only(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    embed(folder, photos)
    own = Path(Index(folder).facts.model_path)
    assert Index(folder).places.may_load_model(own)
    as_of_a_stranger(folder)

    places = Index(folder).places
    assert not places.may_load_model(own) and not places.may_load_model(tmp_path / "model")
    assert places.may_load_model(folder / "model") and not places.may_load_model(folder / ".." / "model")
    assert not places.may_load_model(Path("model"))


@pytest.mark.parametrize("content", ["", "{}", "[1]", "[" * 2000, '["'])
def test_damaged_signatures_open_nothing_and_are_written_anew(
    content: str, photos: Path, tmp_path: Path
) -> None:
    embed(tmp_path / "index", photos)
    (tmp_path / "index" / "signatures.json").write_text(content)
    assert Index(tmp_path / "index").closed_places() == [photos]
    embed(tmp_path / "index", photos)
    assert Index(tmp_path / "index").closed_places() == []


STRANGE = {
    "trigger": "CREATE TRIGGER t AFTER UPDATE ON facts BEGIN DELETE FROM entries; END",
    "view": "ALTER TABLE sources RENAME TO s; CREATE VIEW sources AS SELECT * FROM s",
    "table": "CREATE TABLE more (a)",
    "default": "ALTER TABLE facts ADD COLUMN more TEXT DEFAULT 1",
    "index": "CREATE INDEX i ON entries (abs(size))",
    "generation": "UPDATE facts SET generation = '0/../x'",
    "embed_dim": "UPDATE facts SET embed_dim = 0",
    "slot": "UPDATE entries SET slot = -1 WHERE slot = 0",
    "name": "UPDATE entries SET name = 1.5 WHERE id = 1",
    "root": "UPDATE sources SET root = 7",
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_no_table_of_an_index_is_refused_in_one_line(
    name: str, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "index"
    embed(folder, photos)
    with closing(sqlite3.connect(folder / "index.sqlite")) as connection:
        connection.executescript(STRANGE[name])
    with pytest.raises(UserError, match="is damaged: ") as refused:
        index = Index(folder)
        index.closed_places()
        index.search(np.ones((1, 24), np.float32))
    assert "\n" not in str(refused.value)
    if name in ("trigger", "view", "table", "default", "index"):
        with pytest.raises(UserError, match="it holds other tables"):
            embed(folder, photos)


def test_a_reader_without_the_right_to_write_sees_the_last_commit_of_a_writer(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = tmp_path / "index", ProjectionModel()
    embed(folder, photos)
    save_photo(photos / "new.png", 100)
    with open_writer(folder, model, model_path=Path("projection")) as writer:
        update(writer, model, [open_source(photos)])
        # who may write everything, as root, could not be told apart
        monkeypatch.setattr(os, "access", lambda *_: False)
        assert len(Index(folder)) == 11
