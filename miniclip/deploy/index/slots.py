"""The slots of the file of vectors that a writer may write into: those that no entry points at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from miniclip.deploy.index.database import Facts, damaged
from miniclip.deploy.index.vectors import VectorFile, check_slots

MIN_FREE = 1000
MAX_FREE = 0.25
"""More free slots than this, both in number and as a fraction of all, and the file is packed."""


class Slots:
    """The vectors of one generation: which slots are in use, and which are free.

    Slots that are freed while it is open stay as they are: readers may still look at them.

    Args:
        folder: of the index.
        facts: of the index; they name the file.
        used: slots that entries point at (N,), ascending.

    Raises:
        UserError: when the file lacks what entries point at.
    """

    def __init__(self, folder: Path, facts: Facts, used: np.ndarray):
        self.file = VectorFile(folder, facts.generation, facts.embed_dim)
        self.end = int(used[-1]) + 1 if len(used) else 0

        if self.end == 0:
            self.file.create()
        if not self.file.path.exists():
            raise damaged(folder, f"{self.file.path.name} is missing")
        if len(used):
            check_slots(folder, self.file.num_slots, used[0], used[-1])
        self.free = np.setdiff1d(np.arange(self.end), used)[::-1].tolist()

    def take(self, count: int) -> list[int]:
        """Slots to write into: free ones, and behind the end where these do not suffice."""
        slots = [self.free.pop() for _ in range(min(count, len(self.free)))]
        missing = count - len(slots)
        slots += range(self.end, self.end + missing)
        self.end += missing
        return slots

    def write(self, slots: Sequence[int], vectors: np.ndarray) -> None:
        """Put vectors (N, D) into slots, and return when they are on the disk."""
        self.file.write(slots, vectors)

    def read(self, slot: int) -> np.ndarray:
        """A copy of the vector (D,) float16 of a slot."""
        return self.file.mapped()[slot].copy()

    def are_sparse(self, num_used: int) -> bool:
        """Whether so many slots are free that packing pays, where entries point at `num_used`."""
        num_free = self.end - num_used
        return num_free > MIN_FREE and num_free > MAX_FREE * self.end
