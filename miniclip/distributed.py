"""The processes that train together, by default one.

What several processes have to agree on goes through a `World`: which images each of them reads, the
features that a loss compares, gradients, whether a step is finite, and whether a signal has come. With one
process every answer is the value that was given, without a copy, a transfer or a wait.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from miniclip.errors import UserError, first_line

Row = TypeVar("Row")
Value = TypeVar("Value")

BUCKET_NUMBERS = 2**24
"""How many numbers are averaged in one transfer: 64 MB of float32."""


class LostProcess(UserError):
    """Another process has ended, or cannot be reached; what ended it is told by that one."""


@dataclass(frozen=True)
class World:
    """One process of those that train together, by default the only one.

    All of them call each method, in the same order.

    Attributes:
        rank: number of this process, from 0.
        size: how many processes there are.

    Raises:
        LostProcess: every method, when another process has ended.
    """

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.size

    @classmethod
    def current(cls) -> "World":
        """The processes of torch's group, if there is one."""
        if not dist.is_available() or not dist.is_initialized():
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_main(self) -> bool:
        """Whether this process prints, saves and measures for all."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.size == 1

    def share(self, rows: Sequence[Row]) -> Sequence[Row]:
        """This process's part of what all have in common, with as many rows as that of every other.

        The parts follow each other as the ranks do: `gather` puts what becomes of them into the same order.
        """
        return rows if self.is_alone else rows[self.rows(len(rows))]

    def rows(self, num_rows: int) -> slice:
        """Where this process's part of so many rows lies."""
        own, rest = divmod(num_rows, self.size)
        assert rest == 0, f"{num_rows} rows have no equal parts for {self.size} processes"
        return slice(self.rank * own, (self.rank + 1) * own)

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, `(B, ...) -> (B * size, ...)`.

        A gradient that each process has for all rows reaches them summed over the processes: averaged over
        these afterwards, the weights' gradient is that of the mean of what each process minimizes.
        """
        return rows if self.is_alone else _Gather.apply(rows, self)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a value, () or of any shape, over the processes; without a gradient."""
        if self.is_alone:
            return value
        total = value.detach().clone()
        with _others_may_be_lost():
            dist.all_reduce(total)
        return total / self.size

    @torch.no_grad()
    def average_(self, tensors: Iterable[Tensor | None]) -> None:
        """Put the mean over the processes in the place of each tensor; all have the same ones."""
        if self.is_alone:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            with _others_may_be_lost():
                dist.all_reduce(flat)
            flat /= self.size
            for tensor, mean in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                tensor.copy_(mean.view_as(tensor))

    def broadcast_(self, tensor: Tensor, *, source: int) -> None:
        """Put what one process has in the place of each tensor, of one type and shape, without holes."""
        if self.is_alone:
            return
        with _others_may_be_lost():
            dist.broadcast(tensor, source)

    def all(self, claim: Tensor) -> Tensor:
        """Whether a claim, () bool on the device, holds in every process; the host does not wait."""
        if self.is_alone:
            return claim
        holds = claim.to(torch.int32)
        with _others_may_be_lost():
            dist.all_reduce(holds, op=dist.ReduceOp.MIN)
        return holds.bool()

    def any(self, claim: bool) -> bool:
        """Whether a claim of the host holds in some process; no device is waited for."""
        if self.is_alone:
            return claim
        holds = torch.tensor(int(claim))
        with _others_may_be_lost():
            dist.all_reduce(holds, op=dist.ReduceOp.MAX)
        return bool(holds)

    def sums(self, numbers: Sequence[int]) -> list[int]:
        """Sums over the processes of numbers of the host, in one transfer; no device is waited for."""
        if self.is_alone:
            return list(numbers)
        totals = torch.tensor(numbers)
        with _others_may_be_lost():
            dist.all_reduce(totals)
        return totals.tolist()

    def from_main(self, value: Value) -> Value:
        """What the main process has, plain data; what the others give is not looked at."""
        if self.is_alone:
            return value
        values: list[Any] = [value]
        with _others_may_be_lost():
            dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def of_all(self, value: Value) -> list[Value]:
        """What each process has, plain data, in the order of their ranks."""
        if self.is_alone:
            return [value]
        values: list[Any] = [None] * self.size
        with _others_may_be_lost():
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """A context that the others enter when the main process has left it: what it made is there then."""
        if not self.is_main:
            self.any(False)
        yield
        if self.is_main:
            self.any(False)


class _Gather(torch.autograd.Function):
    """See `World.gather`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, world: World) -> Tensor:
        ctx.world = world
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world.size)]
        with _others_may_be_lost():
            dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.contiguous().clone()
        with _others_may_be_lost():
            dist.all_reduce(total)
        return total[ctx.world.rows(len(total))], None


def _buckets(tensors: Iterable[Tensor | None]) -> Iterator[list[Tensor]]:
    """Tensors of one type each, so many that a transfer is worth its start and its memory."""
    by_dtype: dict[torch.dtype, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        if tensor is None:
            continue
        bucket = by_dtype[tensor.dtype]
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET_NUMBERS:
            yield by_dtype.pop(tensor.dtype)
            bucket = by_dtype[tensor.dtype]
        bucket.append(tensor)
    yield from by_dtype.values()


@contextmanager
def _others_may_be_lost() -> Iterator[None]:
    """Tell torch's errors of a process that has gone in one line."""
    try:
        yield
    except torch.OutOfMemoryError:  # a RuntimeError, too
        raise
    except RuntimeError as error:  # gloo has no class of its own
        raise LostProcess(
            "Another of the processes that train together has ended, or cannot be reached; its own output "
            f"tells why. ({first_line(error)})"
        ) from error
