"""Random crops keep to their bounds and draw as torchvision's do."""

import torch
from torchvision.transforms import v2

from miniclip.data.transforms import MEAN, STD, TrainingCrop, evaluation_crop, normalise


def boxes(crop: TrainingCrop, height: int, width: int, count: int) -> torch.Tensor:
    draws = torch.rand(count, TrainingCrop.TRIES, 4, generator=torch.Generator().manual_seed(0))
    return torch.tensor([crop._box(height, width, own) for own in draws.tolist()])


def test_boxes_are_drawn_as_torchvision_draws_them() -> None:
    torch.manual_seed(0)
    image = torch.zeros(3, 120, 160, dtype=torch.uint8)
    theirs = v2.RandomResizedCrop(32, scale=(0.3, 0.9))
    expected = torch.tensor([list(theirs.make_params([image]).values()) for _ in range(4000)])
    actual = boxes(TrainingCrop(32, crop_scale=(0.3, 0.9), flip=False), 120, 160, 4000)
    for statistic in (torch.mean, torch.std):
        torch.testing.assert_close(
            statistic(actual.double(), dim=0), statistic(expected.double(), dim=0), rtol=0.05, atol=0.5
        )


def test_boxes_lie_within_the_picture() -> None:
    for height, width in ((50, 50), (1, 1), (300, 40), (17, 400)):
        crop = TrainingCrop(32, crop_scale=(0.9, 1.0), flip=False)
        top, left, box_height, box_width = boxes(crop, height, width, 300).T
        assert bool((top >= 0).all() and (left >= 0).all())
        assert bool((top + box_height <= height).all() and (left + box_width <= width).all())
        assert bool((box_height > 0).all() and (box_width > 0).all())


def test_a_panorama_keeps_its_proportions() -> None:
    (box,) = boxes(TrainingCrop(32, crop_scale=(0.9, 1.0), flip=False), 30, 300, 1)
    assert box.tolist() == [0, 130, 30, 40]


def test_half_of_the_pictures_are_mirrored_if_asked() -> None:
    image = torch.arange(64, dtype=torch.uint8).expand(3, 64, 64)
    for flip, least, most in ((True, 80, 120), (False, 0, 0)):
        torch.manual_seed(0)
        crop = TrainingCrop(16, crop_scale=(1.0, 1.0), flip=flip)
        mirrored = sum(int(out[0, 0, 0] > out[0, 0, -1]) for out in (crop(image) for _ in range(200)))
        assert least <= mirrored <= most


def test_normalise_is_torchvisions() -> None:
    pixels = torch.randint(256, (4, 3, 9, 9), dtype=torch.uint8)
    steps = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    torch.testing.assert_close(normalise(pixels), steps(pixels), atol=1e-6, rtol=1e-5)


def test_evaluation_takes_the_centre() -> None:
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    image[:, :, 20:60] = 200
    assert evaluation_crop(20)(image).shape == (3, 20, 20)
    assert evaluation_crop(20)(image)[:, :, 2:-2].min() == 200
