"""The processes that train together: one, for now.

What several processes have to agree on goes through a `World`: which images each of them reads, the
features that a loss compares, whether a step is finite, and whether a signal has come. With one process
every answer is the value that was given, without a copy, a transfer or a wait.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class World:
    """The one process of a run, as one of the processes of a run.

    Attributes:
        rank: number of this process, from 0.
        size: how many processes there are.
    """

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        assert (self.rank, self.size) == (0, 1), "several processes cannot train together yet"

    @property
    def is_main(self) -> bool:
        """Whether this process writes what a run leaves."""
        return self.rank == 0

    def gather(self, features: Tensor) -> Tensor:
        """The rows of all processes, `(B, ...) -> (B * size, ...)`; gradients reach each process's own."""
        return features

    def all(self, claim: Tensor) -> Tensor:
        """Whether a claim, () bool on the device, holds in every process; the host does not wait."""
        return claim

    def any(self, claim: bool) -> bool:
        """Whether a claim of the host holds in some process."""
        return claim

    def barrier(self) -> None:
        """Wait until every process has come here."""
