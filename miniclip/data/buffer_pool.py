"""Memory of batches that is used again."""

import math
import weakref
from collections.abc import Sequence
from threading import Lock

import numpy as np
import torch
from torch import Tensor


class BufferPool:
    """Memory for batches, taken again as soon as no tensor uses it: new memory is slow to write to.

    Args:
        dtype: of the tensors.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._buffers: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []
        self._lock = Lock()  # reader threads take memory at the same time

    def take(self, shape: Sequence[int]) -> Tensor:
        """A tensor (B, C, H, W) in channels_last memory, with any content."""
        batch, channels, height, width = shape
        bytes_of_batch = self._take_bytes(math.prod(shape) * self.dtype.itemsize)
        flat = torch.from_numpy(bytes_of_batch).view(self.dtype)
        return flat.view(batch, height, width, channels).permute(0, 3, 1, 2)  # (B, C, H, W)

    def _take_bytes(self, size: int) -> np.ndarray:
        """A buffer of `size` bytes that nobody uses; buffers of other sizes are dropped."""
        with self._lock:
            self._buffers = [(buffer, user) for buffer, user in self._buffers if buffer.size == size]
            free = next((place for place, (_, user) in enumerate(self._buffers) if user() is None), None)
            buffer = np.empty(size, np.uint8) if free is None else self._buffers.pop(free)[0]

            # held by torch as long as any tensor needs it, one saved for a backward pass say
            view = buffer[:]
            self._buffers.append((buffer, weakref.ref(view)))
            return view
