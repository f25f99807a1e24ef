"""Vectors in the space of a model's weights, in as many pieces as it has tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from miniclip.optim import foreach


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner product of two vectors, ()."""
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def norm(vector: Sequence[Tensor]) -> Tensor:
    """Euclidean length, ()."""
    return dot(vector, vector).sqrt()


def unit(vector: Sequence[Tensor]) -> list[Tensor]:
    """The vector at length 1."""
    return list(foreach.div(list(vector), norm(vector).item()))


def scaled(vector: Sequence[Tensor], length: float) -> list[Tensor]:
    """The vector at another length; one of zeros stays zeros."""
    return list(foreach.mul(list(vector), length / norm(vector).clamp(min=1e-12).item()))


def absolute_cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """|cos| of the angle between two vectors; 0 where one of them is zeros."""
    return (dot(a, b).abs() / (norm(a) * norm(b)).clamp(min=1e-30)).item()


def random_like(pieces: Sequence[Tensor], seed: int) -> list[Tensor]:
    """A vector of normal numbers with pieces of these shapes."""
    generator = torch.Generator().manual_seed(seed)
    # on the CPU, so that all devices draw the same
    return [torch.randn(piece.shape, generator=generator).to(piece.device) for piece in pieces]
