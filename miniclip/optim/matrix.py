"""A parameter of Muon's as a matrix."""

import math
from typing import Any

import torch
from torch import Tensor

RMS_OF_ADAMW = 0.2
"""Root mean square of AdamW's steps over the learning rate (Liu et al. 2025, arXiv 2502.16982)."""


class Matrix:
    """A parameter of Muon's seen as a matrix, the smaller side first, and its step.

    Its columns are in the order of the memory, channels first or last: a change of their order changes
    nothing else in NS(X), and so nothing has to be copied.

    Attributes:
        weight: (M, K) with M at most K; a view of the parameter unless its memory has holes.
    """

    def __init__(self, parameter: Tensor, momentum: Tensor, group: dict[str, Any], *, lr: float):
        self.parameter = parameter
        self.weight = self._oriented(parameter)
        self.lr = lr
        self.weight_decay: float = group["weight_decay"]
        self._beta: float = group["betas"][0]
        self._momentum = momentum

    @property
    def working_dtype(self) -> torch.dtype:
        """Of the direction: at least float32."""
        return torch.float64 if self.weight.dtype is torch.float64 else torch.float32

    def direction(self) -> Tensor:
        """Nesterov's mean of gradient and momentum, (M, K), of at least float32."""
        assert self.parameter.grad is not None
        mean = torch.lerp(self.parameter.grad, self._momentum, self._beta)
        return self._oriented(mean).to(self.working_dtype)

    def move(self, polynomial: Tensor | None, x: Tensor) -> None:
        """Decay the weights, move them against `polynomial (M, M) @ x (M, K)`, or x without one."""
        decay = 1 - self.lr * self.weight_decay
        rate = -self.lr * RMS_OF_ADAMW * math.sqrt(x.shape[1])

        is_view = self.weight.data_ptr() == self.parameter.data_ptr()
        if polynomial is not None and is_view and self.weight.dtype == x.dtype:
            self.weight.addmm_(polynomial, x, beta=decay, alpha=rate)
            return

        update = x if polynomial is None else polynomial @ x  # (M, K)
        self.parameter.mul_(decay).add_(self._as_parameter(update), alpha=rate)

    def _oriented(self, tensor: Tensor) -> Tensor:
        """Of the parameter's shape to (M, K)."""
        if self._is_channels_last:
            tensor = tensor.permute(0, 2, 3, 1)  # (out, k, k, in)
        matrix = tensor.flatten(1)  # (out, in * k * k)
        return matrix.T if self._is_tall else matrix

    def _as_parameter(self, matrix: Tensor) -> Tensor:
        """Of (M, K) to the parameter's shape."""
        if self._is_tall:
            matrix = matrix.T  # (out, in * k * k)
        shape = self.parameter.shape
        if not self._is_channels_last:
            return matrix.reshape(shape)
        out, num_channels, height, width = shape
        return matrix.reshape(out, height, width, num_channels).permute(0, 3, 1, 2)

    @property
    def _is_tall(self) -> bool:
        return len(self.parameter) > self.parameter[0].numel()

    @property
    def _is_channels_last(self) -> bool:
        parameter = self.parameter
        is_last = parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
        return is_last and not parameter.is_contiguous()
