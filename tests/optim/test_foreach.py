"""torch's list operations under our names do what the same operation does for each tensor."""

import torch

from miniclip.optim import foreach


def test_operations_that_return_lists() -> None:
    tensors = [torch.tensor([3.0, 4.0]), torch.tensor([6.0])]
    assert [norm.item() for norm in foreach.norm(tensors)] == [5.0, 6.0]
    assert [tensor.tolist() for tensor in foreach.mul(tensors, 2.0)] == [[6.0, 8.0], [12.0]]
    assert [tensor.tolist() for tensor in foreach.div(tensors, 2.0)] == [[1.5, 2.0], [3.0]]


def test_operations_in_place_change_the_tensors_themselves() -> None:
    tensors = [torch.tensor([3.0, 4.0]), torch.tensor([6.0])]
    foreach.add_(tensors, [torch.ones(2), torch.ones(1)], alpha=2.0)
    assert [tensor.tolist() for tensor in tensors] == [[5.0, 6.0], [8.0]]
    foreach.mul_(tensors, 4.0)
    foreach.div_(tensors, 2.0)
    assert [tensor.tolist() for tensor in tensors] == [[10.0, 12.0], [16.0]]
    foreach.copy_(tensors, [torch.zeros(2), torch.ones(1)])
    assert [tensor.tolist() for tensor in tensors] == [[0.0, 0.0], [1.0]]
