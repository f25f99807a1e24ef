"""The processes that train together: one, for now.

What several processes have to agree on goes through a `World`: which images each of them reads, the
features that a loss compares, whether a step is finite, and whether a signal has come. With one process
every answer is the value that was given, without a copy, a transfer or a wait.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

Row = TypeVar("Row")

ALONE = "several processes cannot train together yet"


@dataclass(frozen=True)
class World:
    """One process of those that train together, by default the only one.

    Attributes:
        rank: number of this process, from 0.
        size: how many processes there are.
    """

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.size

    def share(self, rows: Sequence[Row]) -> Sequence[Row]:
        """This process's part of what all have in common, with as many rows as that of every other.

        The parts follow each other as the ranks do: `gather` puts what becomes of them into the same order.
        """
        if self.size == 1:
            return rows

        num_rows, rest = divmod(len(rows), self.size)
        assert rest == 0, f"{len(rows)} rows have no equal parts for {self.size} processes"
        return rows[self.rank * num_rows : (self.rank + 1) * num_rows]

    def gather(self, features: Tensor) -> Tensor:
        """The rows of all processes, `(B, ...) -> (B * size, ...)`; gradients reach each process's own."""
        assert self.size == 1, ALONE
        return features

    def all(self, claim: Tensor) -> Tensor:
        """Whether a claim, () bool on the device, holds in every process; the host does not wait."""
        assert self.size == 1, ALONE
        return claim

    def any(self, claim: bool) -> bool:
        """Whether a claim of the host holds in some process."""
        assert self.size == 1, ALONE
        return claim
