"""The matrix polynomial of Muon: singular values to about one, by products of the smaller side alone.

The quintic Newton-Schulz iteration X <- (a I + b A + c A^2) X with A = X X^T (Jordan et al. 2024)
multiplies X from the left by polynomials of A. They commute, so they can be gathered in a matrix Q first,
and X is multiplied once at the end:

    P = a I + b A + c A^2,    Q <- P Q,    A <- P A P

For a convolution of 512 x 4608 that is a third of the multiplications, and since all of these matrices are
symmetric, half of each product is nearly enough: a quarter. It wants float32: eigenvalues of A that
rounding makes negative grow in each step, and those of bfloat16 would be large.
"""

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of Jordan's polynomial, steepest at zero; it ends between 0.7 and 1.2, not at 1."""

NUM_STEPS = 5

EPS = 1e-7
"""The least length that a matrix is divided by."""

PANEL = 64
"""Rows of a symmetric product that are computed together, as far as the diagonal."""

_IN_GRAM_MATRIX = 3 + 4 * (NUM_STEPS - 2) + 2
"""Products of M x M matrices for a polynomial."""


def polynomial_of_gram(grams: Tensor) -> Tensor:
    """Q of X X^T, so that Q X is the orthogonalized X: `(N, M, M) -> (N, M, M)`, symmetric.

    The division of X by its Frobenius norm is in Q: the square of the norm is the trace of the Gram matrix.
    """
    a, b, c = COEFFICIENTS
    squares = grams.diagonal(dim1=1, dim2=2).sum(dim=1)  # (N,)
    lengths = squares.sqrt().clamp(min=EPS)[:, None, None]  # (N, 1, 1)
    gram = grams / lengths.square()
    polynomial: Tensor | None = None

    for step in range(NUM_STEPS):
        factor = symmetric_product(gram, gram).mul_(c).add_(gram, alpha=b)  # (N, M, M)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        polynomial = factor if polynomial is None else symmetric_product(factor, polynomial)
        if step < NUM_STEPS - 1:
            gram = symmetric_product(symmetric_product(factor, gram), factor)

    assert polynomial is not None
    return polynomial / lengths


def symmetric_product(left: Tensor, right: Tensor) -> Tensor:
    """A product that is known to be symmetric: `(..., M, K), (..., K, M) -> (..., M, M)`.

    Rows are computed as far as the diagonal, a panel at a time, and mirrored. A GPU computes them whole: it
    takes longer for many small products than for one.
    """
    side = left.shape[-2]
    if left.device.type != "cpu" or side <= PANEL:
        return left @ right

    product = left.new_empty(*left.shape[:-1], side)
    for start, end in _panels(side):
        panel = left[..., start:end, :] @ right[..., :end]  # (..., P, end)
        product[..., start:end, :end] = panel
        product[..., :start, start:end] = panel[..., :start].mT
    return product


def num_multiplications(side: int, length: int) -> int:
    """Multiplications for a matrix (M, K): those of its Gram matrix, of Q, and of both with each other."""
    num_computed = sum((end - start) * end for start, end in _panels(side))
    return num_computed * (length + _IN_GRAM_MATRIX * side) + side**2 * length


def plain_iteration(matrix: Tensor) -> Tensor:
    """The same by the iteration as it is published, in bfloat16: `(M, K) -> (M, K)`, M at most K."""
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16()
    x = x / x.norm().clamp(min=EPS)
    for _ in range(NUM_STEPS):
        gram = x @ x.T  # (M, M)
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, factor, x, beta=a)
    return x


def _panels(side: int) -> list[tuple[int, int]]:
    """The first row of each panel, and the one after its last."""
    return [(start, min(start + PANEL, side)) for start in range(0, side, PANEL)]
