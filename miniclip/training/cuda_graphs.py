"""CUDA graphs: the kernels of a batch, forward and backward, are launched as one.

A GPU that is faster than the host waits for the launch of each kernel: a step of ResNet-34 has some two
thousand. A graph holds them all, with the addresses that they read and write, and is launched at once:

    first batches of a shape     as ever, while libraries choose their kernels
    the next                     recorded: what would be launched becomes a graph
    from then on                 inputs and buffers are copied to where the graph reads them, it is
                                 replayed, and results, gradients and buffers are copied from there

So nobody sees memory that a later replay writes to. The weights alone are read where they lie.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from miniclip.data.batch import Batch
from miniclip.distributed import World
from miniclip.errors import SettingError, first_line
from miniclip.losses import Loss
from miniclip.models import CLIP
from miniclip.optim import foreach
from miniclip.optim.statistics import BufferCopies
from miniclip.training.forward_backward import Accumulation, BatchResult, FeatureGradient
from miniclip.training.phases import phase, phases_unseen
from miniclip.training.precision import Precision

Result = TypeVar("Result")

WARM_UP = 3
"""Batches of each shape that are not recorded yet."""

_are_replayed = True


@contextmanager
def without_graphs() -> Iterator[None]:
    """Context in which all kernels are launched one by one: none in a graph can be counted."""
    global _are_replayed
    _are_replayed = False
    try:
        yield
    finally:
        _are_replayed = True


class GraphedAccumulation(Accumulation):
    """Runs one batch after another as CUDA graphs, one for each shape of batch.

    The results are those of `Accumulation` to the bit. Only for one process, whose model lies on a GPU.

    Args:
        model, loss, precision, reuses_feature_gradient, compiles: see `Accumulation`.
    """

    def __init__(
        self,
        model: CLIP,
        loss: Loss,
        precision: Precision,
        *,
        reuses_feature_gradient: bool = False,
        compiles: bool = False,
    ):
        super().__init__(
            model, loss, precision, reuses_feature_gradient=reuses_feature_gradient, compiles=compiles
        )
        self._graphs: dict[Hashable, _Graph[Any]] = {}
        self._num_seen: Counter[Hashable] = Counter()
        self._stream = torch.cuda.Stream(precision.device)
        self._pool = torch.cuda.graph_pool_handle()

    def _one_batch(
        self, batch: Batch, variance: Tensor | None, num_batches: int, world: World
    ) -> BatchResult:
        one_batch = super()._one_batch

        def forward_backward(batch: Batch, variance: Tensor | None) -> BatchResult:
            return one_batch(batch, variance, num_batches, world)

        return self._replayed(forward_backward, "once", batch, variance)

    def _one_batch_again(self, batch: Batch, gradient: FeatureGradient) -> Tensor:
        return self._replayed(super()._one_batch_again, "again", batch, gradient)

    def _replayed(self, function: Callable[..., Result], name: str, *inputs: Any) -> Result:
        """`function(*inputs)`, by its graph where there is one."""
        if not _are_replayed:
            with self._on_own_stream():
                return function(*inputs)
        parameters = list(self.model.parameters())
        key = (name, _shapes(inputs), tuple((p.requires_grad, p.data_ptr()) for p in parameters))
        if key not in self._graphs:
            self._num_seen[key] += 1
            with self._on_own_stream():
                if self._num_seen[key] <= WARM_UP:
                    return function(*inputs)
                self._graphs[key] = _Graph(function, inputs, self.model, self._stream, self._pool)
        with phase("forward and backward"):
            return self._graphs[key](inputs)

    @contextmanager
    def _on_own_stream(self) -> Iterator[None]:
        """Context whose work is that of the stream which graphs are recorded on."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)


class _Graph(Generic[Result]):
    """A function whose kernels have been recorded, with memory of its own for all but the weights.

    Args:
        function: `inputs -> result`, which adds to the gradients of the model's parameters.
        inputs: tensors in tuples, and what else the function may read of a batch of this shape.
        model: its buffers may be moved, too.
        stream: where to record.
        pool: memory that all graphs take theirs from, since none needs any but while it is replayed.
    """

    def __init__(
        self,
        function: Callable[..., Result],
        inputs: tuple[Any, ...],
        model: CLIP,
        stream: torch.cuda.Stream,
        pool: Any,
    ):
        self.inputs = _each_tensor(inputs, torch.clone)
        self.buffers = BufferCopies(model)
        self.graph = torch.cuda.CUDAGraph()
        with _without_gradients(model) as gradients, self.buffers.in_use(), phases_unseen():
            self.result = self._record(function, stream, pool)
        self.gradients = gradients

    def _record(self, function: Callable[..., Result], stream: torch.cuda.Stream, pool: Any) -> Result:
        try:
            # readers of batches use the GPU meanwhile, which a thread may
            with torch.cuda.graph(self.graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                result = function(*self.inputs)
                self.buffers.absorb()
                return result
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = first_line(error)
            allowed = f"this step cannot be recorded as a CUDA graph ({reason}); take false"
            raise SettingError("trainer.cuda_graphs", True, allowed) from error

    def __call__(self, inputs: tuple[Any, ...]) -> Result:
        """Replay it with the inputs; gradients are added to those that are there."""
        for own, given in zip(_tensors(self.inputs), _tensors(inputs), strict=True):
            own.copy_(given, non_blocking=True)
        self.buffers.fetch()
        self.graph.replay()
        self.buffers.hand_back()
        self._add_gradients()
        return _each_tensor(self.result, torch.clone)

    @torch.no_grad()
    def _add_gradients(self) -> None:
        there = [(p.grad, own) for p, own in self.gradients.items() if p.grad is not None]
        missing = [p for p in self.gradients if p.grad is None]
        if there:
            foreach.add_([gradient for gradient, _ in there], [own for _, own in there])
        if missing:
            copies = foreach.mul([self.gradients[p] for p in missing], 1.0)
            for p, copy in zip(missing, copies, strict=True):
                p.grad = copy


@contextmanager
def _without_gradients(model: CLIP) -> Iterator[dict[Tensor, Tensor]]:
    """Context in which no parameter has a gradient at first; gives those that it brings about."""
    before = {p: p.grad for p in model.parameters()}
    brought: dict[Tensor, Tensor] = {}
    for p in before:
        p.grad = None
    try:
        yield brought
        brought.update((p, p.grad) for p in before if p.grad is not None)
    finally:
        for p, gradient in before.items():
            p.grad = gradient


def _each_tensor(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same tuples in tuples with `function` of each tensor; all else as it is."""
    if isinstance(value, Tensor):
        return function(value)
    if not isinstance(value, tuple):
        return value
    parts = [_each_tensor(part, function) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in tuples in tuples."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _each_tensor(value, keep)
    return found


def _shapes(inputs: tuple[Any, ...]) -> tuple[Hashable, ...]:
    return tuple((tensor.shape, tensor.dtype) for tensor in _tensors(inputs))
