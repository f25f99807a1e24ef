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
    BPETokenizer,
    FullAttention,
    HFTextEncoder,
    LinformerAttention,
    ResNetEncoder,
    TextEncoder,
    linformer_attention,
)
from miniclip.models.attention import TokenPlaces

ATTENTIONS = {"full": FullAttention, "linformer": partial(linformer_attention, k=8)}
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
        "embed_dim": 24,
    }
    return TextEncoder(**settings | changes).eval()


@pytest.mark.parametrize("name", ATTENTIONS)
def test_padding_never_changes_an_embedding(name: str) -> None:
    encoder = text_encoder(ATTENTIONS[name])
    token_ids = torch.randint(300, (3, 6))
    mask = torch.ones(3, 6, dtype=torch.bool)
    alone = encoder(token_ids, mask)
    for num_pads in (1, 4, 10):
        padded_ids = torch.cat([token_ids, torch.randint(300, (3, num_pads))], dim=1)
        padded_mask = torch.cat([mask, torch.zeros(3, num_pads, dtype=torch.bool)], dim=1)
        torch.testing.assert_close(encoder(padded_ids, padded_mask), alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_padding_never_changes_a_gradient(name: str) -> None:
    gradients = []
    for num_pads in (0, 5):
        encoder = text_encoder(ATTENTIONS[name]).double()
        token_ids = torch.arange(6).repeat(2, 1)
        padded = torch.nn.functional.pad(token_ids, (0, num_pads), value=299)
        encoder(padded, torch.arange(6 + num_pads).repeat(2, 1) < 6).square().sum().backward()
        gradients.append(encoder.blocks[0].mlp[0].weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-9, rtol=1e-9)


def test_word_order_matters() -> None:
    encoder = text_encoder(FullAttention)
    token_ids = torch.tensor([[1, 2, 3], [3, 2, 1]])
    first, second = encoder(token_ids, torch.ones_like(token_ids, dtype=torch.bool))
    assert not torch.allclose(first, second, atol=1e-4)


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


def test_linformer_is_the_packages_module_on_unpadded_tokens() -> None:
    torch.manual_seed(0)
    attention = LinformerAttention(width=32, num_heads=4, context_length=16, k=8)
    for projection in (attention.attention.proj_k, attention.attention.proj_v):
        torch.nn.init.normal_(projection)
    tokens = torch.randn(3, 12, 32)
    places = TokenPlaces(torch.ones(3, 12, dtype=torch.bool))
    mixed = places.pad(attention(places.pack(tokens), places))
    torch.testing.assert_close(mixed, attention.attention(tokens), atol=1e-6, rtol=1e-5)
