"""Convolutions that are fast on small maps, on the CPU."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from miniclip.models.kept_weights import kept

SMALL_MAP = 4
"""Largest side of an output map, pixels, on which matrix products give the weight gradient faster."""

DENSE_MAP = 2
"""Largest side of a map, pixels, on which the convolution itself is faster as one matrix product."""


class SmallMapConv2d(nn.Conv2d):
    """A 3x3 convolution that is torch's in every respect but its speed in bfloat16.

    On maps of a few pixels oneDNN computes the weight gradient at a fraction of the speed of a matrix
    product. There each of the nine places of the kernel takes one product, over those pixels that it
    does not move into the padding. On 2 x 2 pixels the whole convolution is a matrix product with less
    than half of the multiplications. The last stages of a ResNet-34 at 64 pixels work on such maps.
    """

    @classmethod
    def replace_in(cls, module: nn.Module) -> None:
        """Turn the convolutions inside a module that fit into this kind; weights stay where they are."""
        for conv in module.modules():
            if type(conv) is nn.Conv2d and _fits(conv):
                conv.__class__ = cls

    def forward(self, images: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            images = images.to(torch.get_autocast_dtype("cpu"))

        stride = int(self.stride[0])
        # without gradients autocast keeps the weights that it has cast for torch's own
        largest = SMALL_MAP * stride if torch.is_grad_enabled() else DENSE_MAP
        # a batch norm that is folded into it leaves a bias
        is_small = self.bias is None and images.ndim == 4 and max(images.shape[-2:]) <= largest
        if images.device.type == "cpu" and images.dtype is torch.bfloat16 and is_small:
            weight = kept(self.weight, "cast", lambda: self.weight.to(images.dtype))
            return _Conv3x3.apply(images, weight, stride)
        return super().forward(images)


def _fits(conv: nn.Conv2d) -> bool:
    return (
        conv.kernel_size == (3, 3)
        and conv.padding == (1, 1)
        and conv.dilation == (1, 1)
        and conv.stride in ((1, 1), (2, 2))
        and conv.groups == 1
        and conv.bias is None
        and conv.padding_mode == "zeros"
    )


class _Conv3x3(torch.autograd.Function):
    """`images (B, C, H, W), weight (D, C, 3, 3) -> (B, D, H / stride, W / stride)`, padded by one."""

    @staticmethod
    def forward(images: Tensor, weight: Tensor, stride: int) -> Tensor:
        if _is_dense(images, stride):
            return _dense_product(images, _kept_dense_kernel(weight, *images.shape[-2:]).T)
        return F.conv2d(images, weight, stride=stride, padding=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        images, weight, stride = inputs
        ctx.save_for_backward(images, weight)
        ctx.stride = stride

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        images, weight = ctx.saved_tensors
        grad_images = grad_weight = None

        if ctx.needs_input_grad[0] and _is_dense(images, ctx.stride):
            grad_images = _dense_product(grad, _kept_dense_kernel(weight, *images.shape[-2:]))
        elif ctx.needs_input_grad[0]:
            grad_images = conv2d_input(images.shape, weight, grad, stride=ctx.stride, padding=1)

        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(images, grad, ctx.stride)
        return grad_images, grad_weight, None


def _is_dense(images: Tensor, stride: int) -> bool:
    return stride == 1 and max(images.shape[-2:]) <= DENSE_MAP


def _kept_dense_kernel(weight: Tensor, height: int, width: int) -> Tensor:
    return kept(weight, f"dense {height} x {width}", lambda: _dense_kernel(weight, height, width))


def _dense_kernel(weight: Tensor, height: int, width: int) -> Tensor:
    """What each pixel of the input adds to each of the output, `(D, C, 3, 3) -> (H W D, H W C)`."""
    by_tap = weight.permute(0, 2, 3, 1)  # (D, 3, 3, C)
    dense = weight.new_empty(height, width, len(weight), height, width, weight.shape[1])
    for row in range(height):
        for column in range(width):
            dense[row, column] = by_tap[:, 1 - row : 1 - row + height, 1 - column : 1 - column + width]
    return dense.flatten(3).flatten(0, 2)


def _dense_product(images: Tensor, kernel: Tensor) -> Tensor:
    """`images (B, C, H, W), kernel (H W C, H W D) -> (B, D, H, W)`, both in channels_last memory."""
    height, width = images.shape[-2:]
    product = images.permute(0, 2, 3, 1).flatten(1) @ kernel  # (B, H W D)
    num_channels = product.shape[1] // (height * width)  # also of a batch without images
    return product.view(len(images), height, width, num_channels).permute(0, 3, 1, 2)


def _weight_gradient(images: Tensor, grad: Tensor, stride: int) -> Tensor:
    """`images (B, C, H, W), grad (B, D, h, w) -> (D, C, 3, 3)`, in channels_last memory."""
    images, grad = images.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)  # channels last
    rows = [_overlap(tap, images.shape[1], grad.shape[1], stride) for tap in range(3)]
    columns = [_overlap(tap, images.shape[2], grad.shape[2], stride) for tap in range(3)]

    result = grad.new_zeros(grad.shape[3], 3, 3, images.shape[3])  # (D, 3, 3, C)
    for row, (rows_in, rows_out) in enumerate(rows):
        for column, (columns_in, columns_out) in enumerate(columns):
            seen = images[:, rows_in, columns_in].flatten(0, 2)  # (pixels, C)
            caused = grad[:, rows_out, columns_out].flatten(0, 2)  # (pixels, D)
            if len(seen):  # a map of one pixel never sees the kernel's border
                result[:, row, column] = caused.T @ seen
    return result.permute(0, 3, 1, 2)


def _overlap(tap: int, size_in: int, size_out: int, stride: int) -> tuple[slice, slice]:
    """Pixels along one axis that a tap of the kernel reads, and those it writes; none of the padding."""
    first = 1 if tap == 0 else 0
    end = min(size_out, (size_in - tap) // stride + 1)
    start_in = first * stride + tap - 1
    return slice(start_in, (end - 1) * stride + tap, stride), slice(first, end)
