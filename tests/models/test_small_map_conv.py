"""The fast weight gradient of small maps is the gradient of torch's small_map_conv."""

import copy

import pytest
import torch
from torch import nn

from miniclip.models import small_map_conv
from miniclip.models.small_map_conv import SmallMapConv2d


def both(stride: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 16, 3, stride, 1, bias=False).bfloat16()
    fast = copy.deepcopy(plain)
    SmallMapConv2d.replace_in(fast)
    assert type(fast) is SmallMapConv2d
    return plain, fast


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (4, 4), (3, 4), (2, 1)])
def test_gradients_are_those_of_torch_in_float32(stride: int, size: tuple[int, int]) -> None:
    plain, fast = both(stride)
    images = torch.randn(5, 8, *size).bfloat16().to(memory_format=torch.channels_last)
    results = []
    for conv, dtype in ((plain.float(), torch.float32), (fast, torch.bfloat16)):
        leaf = images.to(dtype).requires_grad_()
        output = conv(leaf)
        output.backward(torch.linspace(-1, 1, output.numel()).view_as(output).bfloat16().to(dtype))
        results.append((output.float(), leaf.grad.float(), conv.weight.grad.float()))
    assert output.grad_fn is not None and output.grad_fn.name() == "_Conv3x3Backward"
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=0.02, rtol=0.02)


def test_first_and_second_derivatives_in_float64() -> None:
    images = torch.randn(2, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    for stride in (1, 2):
        inputs = images, weight, stride
        assert torch.autograd.gradcheck(small_map_conv._Conv3x3.apply, inputs)
        assert torch.autograd.gradgradcheck(small_map_conv._Conv3x3.apply, inputs)


def test_it_can_be_differentiated_by_torch_func() -> None:
    plain, fast = both(1)
    images = torch.randn(2, 8, 2, 2).bfloat16()

    def loss(weight: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
        return torch.func.functional_call(conv, {"weight": weight}, images).float().square().sum()

    ours, theirs = (torch.func.grad(loss)(conv.weight, conv) for conv in (fast, plain))
    torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.05)


def test_other_convolutions_stay_as_they_are() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 7, 2, 3, bias=False),
        nn.Conv2d(4, 4, 1, bias=False),
        nn.Conv2d(4, 4, 3, 1, 1),
        nn.Conv2d(4, 4, 3, 1, 1, groups=2, bias=False),
        nn.Conv2d(4, 4, 3, 1, 1, bias=False, padding_mode="circular"),
        nn.Conv2d(4, 4, 3, 1, 1, bias=False, padding_mode="reflect"),
    )
    SmallMapConv2d.replace_in(model)
    assert all(type(conv) is nn.Conv2d for conv in model)


def test_large_maps_and_float32_take_torchs_own_path() -> None:
    _, fast = both(1)
    assert fast(torch.randn(1, 8, 9, 9).bfloat16()).grad_fn.name() == "ConvolutionBackward0"
    assert fast.float()(torch.randn(1, 8, 2, 2)).grad_fn.name() == "ConvolutionBackward0"


def test_a_bias_that_it_is_given_later_is_added() -> None:
    plain, fast = both(stride=1)
    plain.bias = fast.bias = nn.Parameter(torch.ones(16).bfloat16())
    images = torch.randn(5, 8, 2, 2).bfloat16()
    torch.testing.assert_close(fast(images), plain(images))


@pytest.mark.parametrize("shape", [(0, 8, 2, 2), (0, 8, 4, 4), (8, 2, 2), (8, 3, 4)])
def test_no_image_and_one_without_a_batch_are_taken_as_torch_does(shape: tuple[int, ...]) -> None:
    results = []
    for conv in both(1):
        images = torch.ones(shape, dtype=torch.bfloat16, requires_grad=True)
        output = conv(images)
        output.sum().backward()
        results.append((output, images.grad, conv.weight.grad))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=0.02, rtol=0.02)
