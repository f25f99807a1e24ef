"""What precision=amp comes to on each device."""

import logging

import pytest
import torch

from miniclip.training import Precision, precision


@pytest.mark.parametrize(
    ("device", "has_bfloat16", "expected"),
    [
        ("cpu", True, torch.bfloat16),
        ("cpu", False, torch.float32),
        ("mps", False, torch.bfloat16),
    ],
)
def test_auto_is_what_the_device_is_fast_in(
    device: str, has_bfloat16: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: has_bfloat16)
    assert Precision(dtype="auto", device=torch.device(device)).dtype is expected


def test_bfloat16_where_it_is_slow_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: False)
    with caplog.at_level(logging.WARNING):
        Precision(dtype="bfloat16", device=torch.device("cpu"))
    assert "precision=fp32 will be faster" in caplog.text
