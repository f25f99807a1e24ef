"""The file of vectors: rows of float16, one behind the other, of which SQLite knows whose they are."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from miniclip.deploy.index.database import damaged

DTYPE = np.dtype("<f2")

PATTERN = "vectors-*.f16"


class VectorFile:
    """Slots of one vector (D,) float16 each; free ones hold anything.

    Args:
        folder: of the index.
        generation: number of the file.
        embed_dim: D.
    """

    def __init__(self, folder: Path, generation: int, embed_dim: int):
        self.path = folder / f"vectors-{generation}.f16"
        self.embed_dim = embed_dim

    @property
    def num_slots(self) -> int:
        """Whole vectors that the file has room for."""
        return self.path.stat().st_size // (self.embed_dim * DTYPE.itemsize)

    def create(self) -> None:
        """Make an empty file, unless there is one."""
        self.path.touch()

    def write(self, slots: Sequence[int], vectors: np.ndarray) -> None:
        """Put vectors (N, D) into slots, and return when they are on the disk."""
        size = self.embed_dim * DTYPE.itemsize
        with open(self.path, "r+b") as file:
            for slot, vector in zip(slots, vectors.astype(DTYPE), strict=True):
                file.seek(slot * size)
                file.write(vector.tobytes())
            file.flush()
            os.fsync(file.fileno())

    def mapped(self) -> np.ndarray:
        """All slots (S, D) float16 as they lie on the disk."""
        shape = self.num_slots, self.embed_dim
        if shape[0] == 0:  # which cannot be mapped
            return np.empty(shape, DTYPE)
        return np.asarray(np.memmap(self.path, DTYPE, mode="r", shape=shape))


def check_slots(folder: Path, num_slots: int, first: int, last: int) -> None:
    """Stop where the file of vectors of an index lacks slots, first to last, that entries point at."""
    if first < 0:
        raise damaged(folder, f"slot {first} is none")
    if last >= num_slots:
        raise damaged(folder, f"its vectors are cut off, {num_slots:,} where {last + 1:,} belong")
