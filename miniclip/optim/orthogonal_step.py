"""The step along orthogonalized matrices, whose work the processes that train together divide.

Each orthogonalizes its part of the matrices and sends the result to the others, as Jordan's Muon for
several GPUs does with one matrix after another (Jordan et al. 2024). Here the parts hold about as many
multiplications, and a part's matrices of one smaller side still go through Newton-Schulz together. What
comes out is the same in every process, since one has computed it for all. A process that trains alone
adds each product to the weights while it computes it: the last bits differ.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from miniclip.distributed import World
from miniclip.optim.matrix import Matrix
from miniclip.optim.newton_schulz import (
    num_multiplications,
    plain_iteration,
    polynomial_of_gram,
    symmetric_product,
)

NewtonSchulzPrecision = Literal["auto", "float32", "bfloat16"]


def move_all(matrices: Iterable[Matrix], precision: NewtonSchulzPrecision, world: World) -> None:
    """Take one step of each matrix.

    Args:
        matrices: with equal gradients and momenta in all processes, in the same order.
        precision: see `MuonAdamW`.
    """
    of_types: dict[tuple[torch.device, torch.dtype], list[Matrix]] = defaultdict(list)
    for matrix in matrices:
        of_types[matrix.weight.device, matrix.working_dtype].append(matrix)

    for (device, dtype), of_one_type in of_types.items():
        if _works_in_bfloat16(precision, device):
            dtype = torch.bfloat16
        # an autocast around the step would round the products
        with torch.autocast(device.type, enabled=False):
            if world.is_alone:
                for matrix, polynomial, x in _orthogonalized(of_one_type, dtype):
                    matrix.move(polynomial, x)
            else:
                _move_together(of_one_type, dtype, world)


def balanced(matrices: Iterable[Matrix], num_parts: int) -> list[list[Matrix]]:
    """Parts of about as many multiplications each; some are empty where there are fewer matrices.

    Each matrix, the most expensive first, goes to the part that has least so far.
    """
    parts: list[list[Matrix]] = [[] for _ in range(num_parts)]
    loads = [0] * num_parts
    for matrix in sorted(matrices, key=_cost, reverse=True):
        lightest = loads.index(min(loads))
        parts[lightest].append(matrix)
        loads[lightest] += _cost(matrix)
    return parts


def _move_together(matrices: Sequence[Matrix], dtype: torch.dtype, world: World) -> None:
    """Orthogonalize this process's part, then move by each part in turn, as its owner sends it."""
    parts = balanced(matrices, world.size)
    own_updates = _empty_updates(parts[world.rank], dtype)
    _, views = own_updates
    for matrix, polynomial, x in _orthogonalized(parts[world.rank], dtype):
        if polynomial is None:
            views[matrix].copy_(x)
        else:
            torch.mm(polynomial, x, out=views[matrix])

    for owner, part in enumerate(parts):
        if not part:
            continue
        flat, views = own_updates if owner == world.rank else _empty_updates(part, dtype)
        world.broadcast_(flat, source=owner)
        for matrix, update in views.items():
            matrix.move(None, update)


def _empty_updates(matrices: Sequence[Matrix], dtype: torch.dtype) -> tuple[Tensor, dict[Matrix, Tensor]]:
    """Room for the updates of several matrices, (numbers,), and the view of each, (M, K)."""
    sizes = [matrix.weight.numel() for matrix in matrices]
    device = matrices[0].weight.device if matrices else None
    flat = torch.empty(sum(sizes), dtype=dtype, device=device)
    views = zip(matrices, flat.split(sizes), strict=True)
    return flat, {matrix: view.view(matrix.weight.shape) for matrix, view in views}


def _orthogonalized(
    matrices: Iterable[Matrix], dtype: torch.dtype
) -> Iterator[tuple[Matrix, Tensor | None, Tensor]]:
    """Each matrix and NS(X): as the factors polynomial (M, M) and X (M, K), or as (M, K) without one."""
    alike: dict[tuple[int, torch.dtype], list[Matrix]] = defaultdict(list)
    for matrix in matrices:
        alike[len(matrix.weight), matrix.weight.dtype].append(matrix)

    for of_one_side in alike.values():
        directions = [matrix.direction() for matrix in of_one_side]
        if dtype is torch.bfloat16:
            for matrix, x in zip(of_one_side, directions, strict=True):
                yield matrix, None, plain_iteration(x)
        else:
            yield from zip(of_one_side, _polynomials(directions), directions, strict=True)


def _polynomials(directions: Sequence[Tensor]) -> Tensor:
    """The polynomials of matrices of one smaller side, each (M, K) -> (N, M, M)."""
    grams = torch.stack([symmetric_product(x, x.T) for x in directions])  # (N, M, M)
    return polynomial_of_gram(grams)


def _cost(matrix: Matrix) -> int:
    return num_multiplications(*matrix.weight.shape)


def _works_in_bfloat16(precision: NewtonSchulzPrecision, device: torch.device) -> bool:
    """Whether Newton-Schulz does; on processors without its arithmetic that is many times slower."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bfloat16"
