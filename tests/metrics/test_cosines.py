"""Measures by cosines are the same in an autocast, and of features that are stored in half of the bits."""

import pytest
import torch
from torch.nn.functional import normalize

from miniclip.metrics import Features, classify, cosine_counts, health


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_measures_are_by_cosines_in_float32(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    images = normalize(torch.randn(400, 64, generator=generator), dim=1).to(dtype)
    classes = normalize(torch.randn(20, 64, generator=generator), dim=1).to(dtype)
    labels = torch.randint(20, (400,), generator=generator)
    pairs = Features(images, images.roll(1, dims=1), torch.arange(400))
    precise = Features(pairs.images.float(), pairs.texts.float(), pairs.image_of_caption)

    of_classes = classify(images.float(), classes.float(), labels)
    assert classify(images, classes, labels)[:3] == of_classes[:3]
    assert cosine_counts(pairs) == cosine_counts(precise)
    with torch.autocast("cpu", torch.bfloat16):
        assert classify(images.float(), classes.float(), labels)[:3] == of_classes[:3]
        under_autocast = health(precise)
    assert under_autocast == health(precise)
