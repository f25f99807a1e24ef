"""Search above the limit of exact search: a graph of neighbors, made by usearch and kept in a file.

The graph is one of the slots at some version of the index. What has changed since is searched exactly, so
that every answer is of the last commit; when too much has changed, the graph is made anew.
"""

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from miniclip.deploy.index import exact
from miniclip.errors import UserError, counted
from miniclip.files import partial_path, replace

log = logging.getLogger(__name__)

MAX_CHANGED = 0.1
"""Fraction of the vectors that may have changed since the graph was made."""

PATTERN = "graph-*.usearch"

MIN_CANDIDATES = 128
"""Candidates of each query, so that few searches miss a neighbor."""


EXPANSION = 256
"""Neighbors that usearch looks at; more find more, and take longer."""


class Graph:
    """A graph of neighbors.

    Args:
        graph: usearch's, whose keys are slots.
        version: of the index when it was made.
    """

    def __init__(self, graph: Any, version: int):
        self.graph = graph
        self.version = version

    def suits(self, versions: np.ndarray) -> bool:
        """Whether few entries have changed since, of which `versions` (N,) are the present ones."""
        num_same = int((versions <= self.version).sum())
        num_changed = len(versions) - num_same
        num_gone = len(self.graph) - num_same
        return num_changed + num_gone <= MAX_CHANGED * len(versions)

    def nearest(
        self, queries: np.ndarray, vectors: np.ndarray, slots: np.ndarray, versions: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Likely neighbors with their exact scores; see `exact.nearest`."""
        is_same = versions <= self.version
        same, changed = slots[is_same], slots[~is_same]

        scores, found = [], []
        for query in queries:
            candidates = np.union1d(self._neighbors(query, same, k), changed)
            best_scores, best_slots = exact.nearest(query[None], vectors, candidates, k)
            scores.append(best_scores[0])
            found.append(best_slots[0])
        return np.stack(scores), np.stack(found)

    def _neighbors(self, query: np.ndarray, same: np.ndarray, k: int) -> np.ndarray:
        """At least k slots near a query, where there are as many, of those that have not changed."""
        wanted = min(k, len(same))
        num_asked = min(max(2 * k, MIN_CANDIDATES), len(self.graph))

        # slots that were freed since take the places of neighbors
        while True:
            keys = self.graph.search(query, num_asked).keys.astype(np.int64)
            neighbors = keys[_is_among(keys, same)]
            if len(neighbors) >= wanted:
                return neighbors
            if num_asked == len(self.graph):  # some cannot be reached
                return same
            num_asked = min(2 * num_asked, len(self.graph))


def load_graph(folder: Path, generation: int, embed_dim: int) -> Graph | None:
    """The graph of the file of vectors of this number, if one was saved.

    Args:
        embed_dim: length of these vectors.
    """
    names = re.compile(rf"graph-{generation}-[0-9]+\.usearch")
    files = [path for path in folder.glob(PATTERN) if names.fullmatch(path.name)]
    if not files:
        return None

    last = max(files, key=_version_of)
    try:
        graph = _usearch().restore(str(last), view=True)
    except (ValueError, RuntimeError, OSError):  # a file that is cut is made anew
        graph = None
    if graph is not None and graph.ndim == embed_dim:
        return Graph(graph, _version_of(last))
    log.warning("%s is damaged; the graph of neighbors is made anew.", last)
    return None


def make_graph(
    folder: Path, generation: int, version: int, vectors: np.ndarray, slots: np.ndarray
) -> Graph:
    """Make the graph of the vectors in some slots, and save it where the folder can be written."""
    log.warning("Making the graph of neighbors of %s ...", counted(len(slots), "vector"))
    graph = _usearch()(
        ndim=vectors.shape[1], metric="ip", dtype="f16", expansion_add=EXPANSION, expansion_search=EXPANSION
    )
    for start in range(0, len(slots), exact.AT_ONCE):
        part = slots[start : start + exact.AT_ONCE]
        graph.add(part, vectors[part])

    if os.access(folder, os.W_OK):
        _save(graph, folder / f"graph-{generation}-{version}.usearch")
    return Graph(graph, version)


def _save(graph: Any, path: Path) -> None:
    """Replace all graphs of the folder by this one."""
    partial = partial_path(path)
    graph.save(str(partial))
    replace(partial, path)
    for other in path.parent.glob(PATTERN):
        if other != path:
            with contextlib.suppress(OSError):  # open on Windows
                other.unlink()


def _is_among(keys: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """Which of the keys (K,) are in an ascending array."""
    if len(ascending) == 0:
        return np.zeros(len(keys), np.bool_)
    places = np.searchsorted(ascending, keys).clip(max=len(ascending) - 1)
    return ascending[places] == keys


def _version_of(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _usearch() -> Any:
    """The class of usearch's index."""
    try:
        from usearch.index import Index
    except ImportError:
        raise UserError(
            'An index this large is searched by usearch, which is missing: pip install -e ".[search]"'
        ) from None
    return Index
