"""Random crops keep to their bounds and draw as torchvision's do; cutting is torchvision's, one or many."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from miniclip.data.transforms import (
    Box,
    CenterCrop,
    RandomResizedCrop,
    RandomSquareCrop,
    SquashResize,
    crop_and_resize,
    crop_and_resize_batch,
    normalize,
)
from miniclip.preprocessing import MEAN, STD


def boxes(crop: RandomResizedCrop, height: int, width: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.tensor([crop.box(height, width, generator) for _ in range(count)])


def pictures(count: int, height: int, width: int) -> Tensor:
    """Smooth at some places, noise at others; by pixel in memory."""
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(count, 3, 5, 7), (height, width), mode="bicubic")
    smooth[:, :, : height // 2] += torch.rand(count, 3, height // 2, width) - 0.5
    return smooth.clamp(0, 1).mul(255).byte().contiguous(memory_format=torch.channels_last)


def test_boxes_are_drawn_as_torchvision_draws_them() -> None:
    torch.manual_seed(0)
    image = torch.zeros(3, 120, 160, dtype=torch.uint8)
    theirs = v2.RandomResizedCrop(32, scale=(0.3, 0.9))
    expected = torch.tensor([list(theirs.make_params([image]).values()) for _ in range(4000)])
    actual = boxes(RandomResizedCrop(32, crop_scale=(0.3, 0.9), flip=False), 120, 160, 4000)[:, :4]
    for statistic in (torch.mean, torch.std):
        torch.testing.assert_close(
            statistic(actual.double(), dim=0), statistic(expected.double(), dim=0), rtol=0.05, atol=0.5
        )


def test_boxes_lie_within_the_picture() -> None:
    for height, width in ((50, 50), (1, 1), (300, 40), (17, 400)):
        crop = RandomResizedCrop(32, crop_scale=(0.9, 1.0), flip=False)
        top, left, box_height, box_width, mirrored = boxes(crop, height, width, 300).T
        assert bool((top >= 0).all() and (left >= 0).all() and not mirrored.any())
        assert bool((top + box_height <= height).all() and (left + box_width <= width).all())
        assert bool((box_height > 0).all() and (box_width > 0).all())


def test_a_panorama_keeps_its_proportions() -> None:
    (box,) = boxes(RandomResizedCrop(32, crop_scale=(0.9, 1.0), flip=False), 30, 300, 1)
    assert box.tolist() == [0, 130, 30, 40, 0]


def test_half_of_the_pictures_are_mirrored_if_asked() -> None:
    for flip, least, most in ((True, 80, 120), (False, 0, 0)):
        crop = RandomResizedCrop(16, crop_scale=(1.0, 1.0), flip=flip)
        assert least <= int(boxes(crop, 64, 64, 200)[:, 4].sum()) <= most


def test_a_shifted_crop_needs_no_resizing_where_the_picture_has_the_right_size() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (16, 24, 31, 48, 64, 100, 224):
        side = RandomSquareCrop.source_size(size)
        drawn = torch.tensor(
            [RandomSquareCrop(size, flip=True).box(side, side + 9, generator) for _ in range(300)]
        )
        top, left, height, width, mirrored = drawn.T
        assert set(height.tolist()) == set(width.tolist()) == {size}
        assert (int(top.min()), int(top.max())) == (0, side - size)
        assert int(left.min()) == 0 and int((left + width).max()) <= side + 9
        assert 100 < int(mirrored.sum()) < 200
    (picture,) = pictures(1, 60, 90)
    box = Box(3, 5, 24, 24, mirrored=True)
    assert torch.equal(crop_and_resize(picture, box, 24), picture[:, 3:27, 5:29].flip(2))


def test_evaluation_may_take_the_whole_picture() -> None:
    picture = pictures(1, 40, 60)[0]
    box = SquashResize(32).box(40, 60, torch.Generator())
    expected = F.resize(picture, [32, 32], v2.InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(crop_and_resize(picture, box, 32), expected)


def test_evaluation_takes_the_centre() -> None:
    generator = torch.Generator()
    assert CenterCrop(20).box(40, 80, generator) == Box(0, 20, 40, 40)
    assert CenterCrop(20).box(81, 40, generator) == Box(20, 0, 40, 40)


@pytest.mark.parametrize("size", [24, 60, 100])
@pytest.mark.parametrize("by_pixel", [True, False])
def test_cutting_is_torchvisions(size: int, by_pixel: bool) -> None:
    (picture,) = pictures(1, 60, 90)
    if not by_pixel:
        picture = picture.contiguous()
    for box in (Box(0, 0, 60, 90), Box(7, 30, 41, 33), Box(20, 5, 24, 60, mirrored=True)):
        expected = F.resized_crop(picture, *box[:4], [size, size], v2.InterpolationMode.BICUBIC)
        if box.mirrored:
            expected = F.horizontal_flip(expected)
        assert (crop_and_resize(picture, box, size).int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("size", [24, 100])
def test_a_whole_batch_is_cut_as_one_by_one(size: int) -> None:
    batch = pictures(6, 80, 110)
    drawn = boxes(RandomResizedCrop(size, crop_scale=(0.1, 1.0), flip=True), 80, 110, 6)
    assert 0 < drawn[:, 4].sum() < 6
    one_by_one = torch.stack(
        [
            crop_and_resize(picture, Box(*box), size)
            for picture, box in zip(batch, drawn.tolist(), strict=True)
        ]
    )
    levels = (crop_and_resize_batch(batch, drawn, size) - one_by_one).abs()
    assert levels.max() <= 2 and levels.mean() < 0.1


def test_padding_of_a_batch_is_not_seen() -> None:
    (picture,) = pictures(1, 40, 50)
    padded = torch.nn.functional.pad(picture, (0, 30, 0, 20), value=255)
    box = torch.tensor([[0, 0, 40, 50, 0]])
    assert torch.equal(
        crop_and_resize_batch(picture[None], box, 24), crop_and_resize_batch(padded[None], box, 24)
    )


def test_normalise_is_torchvisions() -> None:
    steps = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    for pixels in (pictures(4, 9, 11), pictures(4, 9, 11).contiguous()):
        torch.testing.assert_close(normalize(pixels), steps(pixels), atol=1e-5, rtol=1e-5)
        out = torch.empty(4, 3, 9, 11).contiguous(memory_format=torch.channels_last)
        assert normalize(pixels, out) is out and torch.equal(out, normalize(pixels))
