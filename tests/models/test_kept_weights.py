"""Weights in a lower precision are made once for all forward passes with the same weights."""

import pytest
import torch
from torch import Tensor, nn

from miniclip.models import kept_weights
from miniclip.models.kept_weights import kept, weights_kept
from miniclip.models.small_map_conv import SmallMapConv2d
from miniclip.training.precision import Precision


class Maker:
    """Doubles a weight, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def double(self, weight: Tensor) -> Tensor:
        def make() -> Tensor:
            self.calls += 1
            return weight * 2

        return kept(weight, "double", make)


def test_it_is_made_once_within_and_each_time_without() -> None:
    weight, other, maker = torch.ones(3), torch.zeros(3), Maker()
    with weights_kept():
        results = [maker.double(each) for each in (weight, other, weight, other)]
    assert maker.calls == 2
    assert [result.sum() for result in results] == [6, 0, 6, 0]

    weight.add_(1)
    assert maker.double(weight).sum() == 12 and maker.calls == 3
    with weights_kept():
        assert maker.double(weight).sum() == 12
    assert maker.calls == 4


def test_with_a_graph_and_without_are_two() -> None:
    weight, maker = nn.Parameter(torch.ones(3)), Maker()
    with weights_kept():
        with torch.no_grad():
            assert not maker.double(weight).requires_grad
        assert maker.double(weight).requires_grad and maker.calls == 2


def test_an_inner_context_leaves_the_outer_one_as_it_was() -> None:
    weight, maker = torch.ones(3), Maker()
    with weights_kept():
        maker.double(weight)
        with weights_kept():
            maker.double(weight)
        maker.double(weight)
    assert maker.calls == 2


@pytest.mark.parametrize("size", [2, 4])
def test_a_small_convolution_casts_its_weight_once_for_all_batches(size: int) -> None:
    """Passes forward and backward within one context give the gradient of passes in a context each."""
    conv = nn.Conv2d(8, 16, 3, 1, 1, bias=False)
    SmallMapConv2d.replace_in(nn.Sequential(conv))
    precision = Precision(dtype="bfloat16", device=torch.device("cpu"))
    batches = torch.randn(3, 5, 8, size, size)

    gradients = []
    for contexts in (1, 3):
        conv.weight.grad = None
        for part in batches.chunk(contexts):
            with precision.autocast():
                for images in part:
                    output = conv(images.requires_grad_())
                    with precision.without_autocast():
                        output.float().square().sum().backward()
                made = kept_weights._made.get()
                # the weight in bfloat16; on 2 x 2 pixels also the matrix of the whole convolution
                assert made is not None and len(made) == (2 if size == 2 else 1)
        assert conv.weight.grad is not None
        gradients.append(conv.weight.grad.clone())
    assert torch.equal(*gradients)
