"""What the whole model computes from both towers' features."""

import pytest
import torch
import torch.nn.functional as F

from miniclip.models import clip
from miniclip.models.clip import similarity_variance


def test_of_a_large_batch_the_variance_needs_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where all features point the same way, and the variance is a millionth of the mean."""
    torch.manual_seed(0)
    for spread in (1.0, 1e-2):
        center = torch.randn(32)
        images = F.normalize(center + spread * torch.randn(300, 32), dim=1)
        texts = F.normalize(center + spread * torch.randn(300, 32), dim=1)
        exact = (images.double() @ texts.double().T).var(correction=0)
        assert similarity_variance(images, texts).item() == pytest.approx(exact.item(), rel=1e-4)
        with monkeypatch.context() as smaller:
            smaller.setattr(clip, "LARGEST_TABLE", 100)
            assert similarity_variance(images, texts).item() == pytest.approx(exact.item(), rel=1e-4)
