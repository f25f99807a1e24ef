"""The towers: padding, shapes, weights, the Hugging Face wrapper."""

import builtins
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from miniclip.errors import SettingError, UserError
from miniclip.models import (
    BagOfTokens,
    BPETokenizer,
    FullAttention,
    HFTextEncoder,
    ResNetEncoder,
    TextEncoder,
    linformer_attention,
)
from miniclip.models.encoders import pool

CAPTIONS = ["a small dog", "two men in the rain with umbrellas", ""]


def text_encoder(attention: Any, **changes: Any) -> TextEncoder:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "vocab_size": 300,
        "attention": attention,
        "width": 32,
        "num_layers": 2,
        "num_heads": 4,
        "context_length": 16,
        "dropout": 0.0,
        "pooling": "mean",
        "embed_dim": 24,
    }
    return TextEncoder(**settings | changes).eval()


@pytest.mark.parametrize("pooling", ["mean", "eos", "cls", "max"])
def test_pooling_reads_real_tokens_only(pooling: Any) -> None:
    tokens = torch.randn(3, 6, 4)
    lengths = [1, 4, 6]
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    pooled = pool(tokens.masked_fill(~mask[..., None], 1000), mask, pooling)
    by_hand = {
        "mean": lambda own: own.mean(dim=0),
        "eos": lambda own: own[-1],
        "cls": lambda own: own[0],
        "max": lambda own: own.amax(dim=0),
    }[pooling]
    expected = torch.stack([by_hand(own[:length]) for own, length in zip(tokens, lengths, strict=True)])
    torch.testing.assert_close(pooled, expected)


def test_the_bag_knows_no_order_and_no_padding() -> None:
    bag = BagOfTokens(vocab_size=10, width=8, embed_dim=4)
    token_ids = torch.tensor([[1, 2, 3, 9], [3, 1, 2, 5], [1, 2, 4, 9]])
    mask = torch.tensor([[True, True, True, False]] * 3)
    first, second, third = bag(token_ids, mask)
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, third)


def test_without_the_package_exact_attention_stands_in_with_one_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real_import = builtins.__import__

    def without_linformer(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "linformer":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_linformer)
    with pytest.warns(UserWarning, match="pip install linformer"):
        attention = linformer_attention(width=32, num_heads=4, context_length=16, k=8)
    assert isinstance(attention, FullAttention)


@pytest.mark.parametrize(
    ("setting", "changes"),
    [
        ("num_heads", {"num_heads": 5}),
        ("num_layers", {"num_layers": 0}),
        ("dropout", {"dropout": 1.0}),
        ("k", {"attention": partial(linformer_attention, k=17)}),
        ("k", {"attention": partial(linformer_attention, k=0)}),
    ],
)
def test_refuses_settings_out_of_range(setting: str, changes: dict[str, Any]) -> None:
    with pytest.raises(SettingError) as caught:
        text_encoder(**{"attention": FullAttention} | changes)
    assert caught.value.setting == setting


def test_hf_text_encoder_takes_raw_strings() -> None:
    tokenizer = BPETokenizer(vocab_size=300, lowercase=True, context_length=16)
    tokenizer.fit(CAPTIONS)
    encoder = text_encoder(FullAttention)
    features = HFTextEncoder(tokenizer, encoder)(CAPTIONS)
    assert features.shape == (3, 24)
    torch.testing.assert_close(features, encoder(*tokenizer.encode(CAPTIONS)))


@pytest.mark.parametrize("architecture", ["resnet18", "resnet34", "resnet50"])
def test_image_encoder_shapes(architecture: Any) -> None:
    encoder = ResNetEncoder(architecture=architecture, weights=None, embed_dim=24)
    assert encoder(torch.randn(2, 3, 32, 32)).shape == (2, 24)


def test_residual_blocks_start_at_zero_without_weights() -> None:
    encoder = ResNetEncoder(architecture="resnet18", weights=None, embed_dim=8)
    assert encoder.backbone.layer1[0].bn2.weight.abs().sum() == 0


def test_weights_from_a_file_with_and_without_classifier(tmp_path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    path = tmp_path / "weights.pth"
    for dropped in ((), ("fc.weight", "fc.bias")):
        torch.save({k: v for k, v in state.items() if k not in dropped}, path)
        encoder = ResNetEncoder(architecture="resnet18", weights=str(path), embed_dim=8)
        assert torch.equal(encoder.backbone.conv1.weight, state["conv1.weight"])


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    with pytest.raises(SettingError, match="not a state dict of resnet34"):
        ResNetEncoder(architecture="resnet34", weights=str(path), embed_dim=8)


def test_unknown_weights_name_those_there_are() -> None:
    with pytest.raises(SettingError, match="IMAGENET1K_V1"):
        ResNetEncoder(architecture="resnet34", weights="IMAGENET", embed_dim=8)


def test_a_failed_download_says_where_the_file_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody answers there
    with pytest.raises(UserError) as caught:
        ResNetEncoder(architecture="resnet18", weights="IMAGENET1K_V1", embed_dim=8)
    assert str(tmp_path / "hub" / "checkpoints") in str(caught.value)
    assert "encoder.image.weights=PATH" in str(caught.value)
