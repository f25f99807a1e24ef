"""Memory that is taken again as soon as nobody uses it, and not before."""

import torch

from miniclip.data.buffer_pool import BufferPool


def test_memory_is_taken_again_when_nobody_uses_it() -> None:
    pool = BufferPool(torch.float32)
    first, second = pool.take((2, 3, 4, 5)), pool.take((2, 3, 4, 5))
    assert first.data_ptr() != second.data_ptr()

    part, address = first[0], first.data_ptr()
    del first
    assert pool.take((2, 3, 4, 5)).data_ptr() != address, "a part of it is still in use"
    del part
    addresses = {pool.take((2, 3, 4, 5)).data_ptr() for _ in range(4)}
    assert second.data_ptr() not in addresses


def test_tensors_are_of_the_shape_and_by_pixel_in_memory() -> None:
    pool = BufferPool(torch.uint8)
    for shape in ((2, 3, 4, 5), (1, 3, 7, 2)):
        taken = pool.take(shape)
        assert taken.shape == shape and taken.dtype is torch.uint8
        assert taken.is_contiguous(memory_format=torch.channels_last)
