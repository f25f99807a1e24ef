"""Small image towers with the settings that a test does not name."""

from typing import Any

import pytest

from miniclip.models import TimmEncoder, TorchvisionEncoder

SETTINGS: dict[str, Any] = {
    "image_size": 64,
    "embed_dim": 8,
    "weights": None,
    "trainable": "all",
    "freeze_batch_norm_stats": False,
    "lr_factor": 1.0,
}


def encoder(**changes: Any) -> TorchvisionEncoder:
    """A tower of torchvision."""
    return TorchvisionEncoder(**SETTINGS | changes)


def timm_encoder(**changes: Any) -> TimmEncoder:
    """A tower of timm, where that is installed."""
    pytest.importorskip("timm", reason="needs the extra timm")
    return TimmEncoder(**SETTINGS | changes)
