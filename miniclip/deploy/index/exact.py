"""Exact search: every vector is compared with every query."""

from collections.abc import Iterator

import numpy as np

AT_ONCE = 16_384
"""Vectors that are held as float32 at a time."""


def nearest(
    queries: np.ndarray, vectors: np.ndarray, slots: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The vectors with the highest products, best first, and equal ones in the order of their slots.

    Args:
        queries: (Q, D) float32.
        vectors: (S, D), all slots.
        slots: (N,) int64, ascending: which of these count.
        k: how many.

    Returns:
        scores (Q, min(k, N)) float32, and their slots (Q, min(k, N)) int64.
    """
    best_scores = [np.empty((len(queries), 0), np.float32)]
    best_slots = [np.empty((len(queries), 0), np.int64)]

    for part in _parts(slots):
        # (Q, D) @ (D, n) -> (Q, n)
        scores = queries @ np.asarray(_rows(vectors, part), np.float32).T
        places = _highest(scores, k)
        best_scores.append(np.take_along_axis(scores, places, axis=1))
        best_slots.append(part[places])

    scores, found = np.concatenate(best_scores, axis=1), np.concatenate(best_slots, axis=1)
    order = np.lexsort((found, -scores))[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(found, order, axis=1)


def _parts(slots: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(slots), AT_ONCE):
        yield slots[start : start + AT_ONCE]


def _rows(vectors: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """The vectors in some slots, not copied where these follow one another."""
    first, last = int(slots[0]), int(slots[-1])
    if last - first + 1 == len(slots):
        return vectors[first : last + 1]
    return vectors[slots]


def _highest(scores: np.ndarray, k: int) -> np.ndarray:
    """Places (Q, min(k, n)) of the highest scores (Q, n) of each row, in any order."""
    first = max(0, scores.shape[1] - k)
    return np.argpartition(scores, first, axis=1)[:, first:]
