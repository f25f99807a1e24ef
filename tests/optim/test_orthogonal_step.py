"""How processes divide the work of Newton-Schulz; test_muon.py of tests/distributed divides it."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from miniclip.optim.matrix import Matrix
from miniclip.optim.newton_schulz import num_multiplications, polynomial_of_gram, symmetric_product
from miniclip.optim.orthogonal_step import balanced

SHAPES = [(4, 4), (8, 72), (8, 72), (16, 4), (2, 30), (16, 144), (4, 9), (8, 8)]


def matrix_of(*shape: int) -> Matrix:
    group: dict[str, Any] = {"weight_decay": 0.1, "betas": (0.95, 0.98)}
    parameter = torch.nn.Parameter(torch.ones(shape))
    parameter.grad = torch.eye(*shape)
    return Matrix(parameter, torch.zeros(shape), group, lr=0.01)


def cost(part: list[Matrix]) -> int:
    return sum(num_multiplications(*matrix.weight.shape) for matrix in part)


@pytest.mark.parametrize("num_parts", [1, 2, 3, 20])
def test_parts_hold_each_matrix_once_and_equal_work(num_parts: int) -> None:
    matrices = [matrix_of(*shape) for shape in SHAPES]
    parts = balanced(matrices, num_parts)
    assert len(parts) == num_parts
    assert {matrix for part in parts for matrix in part} == set(matrices)
    assert sum(len(part) for part in parts) == len(matrices)

    # at most 4/3 of the best division (Graham 1969), here even of what none can be below
    least = max(cost(matrices) / num_parts, *(cost([matrix]) for matrix in matrices))
    assert max(cost(part) for part in parts) <= 4 / 3 * least


def test_processes_divide_the_matrices_in_one_way() -> None:
    ours, theirs = ([matrix_of(*shape) for shape in SHAPES] for _ in range(2))
    places = [
        [[matrices.index(matrix) for matrix in part] for part in balanced(matrices, 3)]
        for matrices in (ours, theirs)
    ]
    assert places[0] == places[1]


@pytest.mark.parametrize("shape", [(8, 8), (8, 72), (2, 30), (300, 340)])
def test_the_work_is_that_of_a_step(shape: tuple[int, int]) -> None:
    x = torch.randn(shape)
    with FlopCounterMode(display=False) as counter:
        polynomial = polynomial_of_gram(symmetric_product(x, x.T)[None])[0]
        torch.mm(polynomial, x)
    assert counter.get_total_flops() == 2 * num_multiplications(*shape)
