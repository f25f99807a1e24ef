"""Lengths and products against values worked out by hand, also where float16 overflows."""

import torch

from miniclip.optim.norms import (
    are_finite,
    inner_product,
    length_of,
    norms_of,
    precise,
    quotients,
    spoil_unless,
)


def test_norms_of_tensors_and_the_length_of_all() -> None:
    norms = norms_of([torch.tensor([3.0, 4.0]), torch.tensor([[12.0]])])
    assert [norm.item() for norm in norms] == [5.0, 12.0]
    assert length_of(norms).item() == 13.0


def test_squares_beyond_float16_do_not_overflow() -> None:
    large = torch.full((4,), 300.0, dtype=torch.float16)
    assert torch.isinf(large @ large)  # 4 * 300^2 = 360,000 > 65,504
    assert norms_of([large, torch.ones(1)])[0].item() == 600.0
    assert inner_product(large, large).item() == 360_000.0
    assert precise(torch.ones(1, dtype=torch.float64)).dtype == torch.float64


def test_an_inner_product_pairs_elements_by_place_and_not_by_memory() -> None:
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    b = torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    assert inner_product(a, b).item() == 70.0
    assert inner_product(a.T, b).item() == 1 * 5 + 3 * 6 + 2 * 7 + 4 * 8
    assert inner_product(a.T, b.T).item() == 70.0


def test_quotients_of_one_numerator_and_of_several() -> None:
    lengths = torch.tensor([2.0, 4.0])
    assert quotients([1.0, 1.0], lengths).tolist() == [0.5, 0.25]
    assert quotients([1.0, 3.0], lengths).tolist() == [0.5, 0.75]


def test_one_gradient_is_spoiled_where_asked() -> None:
    second, third = torch.ones(2), torch.ones(2)
    gradients = [None, second, third]
    spoil_unless(torch.tensor(True), gradients)
    assert are_finite([second, third])
    spoil_unless(torch.tensor(False), gradients)
    assert not are_finite([second]) and are_finite([third])
