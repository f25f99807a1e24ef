"""Text towers: pooling, the bag, models of Hugging Face, raw strings."""

import builtins
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from miniclip.errors import SettingError, UserError
from miniclip.models import (
    BagOfTokens,
    BPETokenizer,
    FullAttention,
    HFTextEncoder,
    HFTextModel,
    HFTokenizer,
    TextEncoder,
    linformer_attention,
)
from miniclip.models.text_encoder import pool

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


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A small BERT with a tokenizer, in a folder as Hugging Face's `save_pretrained` leaves it."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = BPETokenizer(vocab_size=300, lowercase=True, context_length=16)
    tokenizer.fit(CAPTIONS)
    backend = tokenizer.backend
    backend.no_truncation()
    folder = tmp_path / "bert"
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<pad>").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=300, **sizes)).save_pretrained(folder)
    return folder


def hf_model(folder: Path | str, **changes: Any) -> HFTextModel:
    settings: dict[str, Any] = {
        "vocab_size": 300,
        "name": str(folder),
        "config": None,
        "frozen": False,
        "pooling": "mean",
        "embed_dim": 24,
    }
    return HFTextModel(**settings | changes)


def test_a_hugging_face_model_as_tower(bert: Path) -> None:
    tokenizer = HFTokenizer(name=str(bert), context_length=16)
    encoder = hf_model(bert, vocab_size=tokenizer.vocab_size).eval()
    token_ids, mask = tokenizer.encode(CAPTIONS)
    features = encoder(token_ids, mask)
    assert features.shape == (3, 24)
    wide = torch.nn.functional.pad(token_ids, (0, 5), value=7), torch.nn.functional.pad(mask, (0, 5))
    torch.testing.assert_close(encoder(*wide), features, atol=1e-6, rtol=1e-5)
    again = hf_model("nowhere", config=encoder.config).eval()  # as a checkpoint brings it back
    again.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(again(token_ids, mask), features)


def test_a_frozen_model_does_not_learn_and_has_no_dropout(bert: Path) -> None:
    encoder = hf_model(bert, frozen=True).train()
    token_ids, mask = torch.ones(2, 4, dtype=torch.int64), torch.ones(2, 4, dtype=torch.bool)
    assert torch.equal(encoder(token_ids, mask), encoder(token_ids, mask))
    encoder(token_ids, mask).sum().backward()
    assert {name for name, p in encoder.named_parameters() if p.grad is not None} == {
        "proj.weight",
        "proj.bias",
    }


def test_a_tokenizer_with_more_ids_than_the_model(bert: Path) -> None:
    with pytest.raises(SettingError, match="knows 300 token ids, the tokenizer has 301"):
        hf_model(bert, vocab_size=301)


def test_a_model_that_is_nowhere_says_where_a_folder_goes() -> None:
    with pytest.raises(UserError, match=r"encoder\.text\.name=nobody/nothing cannot be loaded.*=FOLDER"):
        hf_model("nobody/nothing")


@pytest.mark.parametrize("pooling", ["mean", "eos", "cls", "max"])
def test_a_caption_without_tokens_is_pooled_to_finite_numbers(pooling: Any) -> None:
    tokens = torch.randn(2, 3, 4, requires_grad=True)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    pooled = pool(tokens, mask, pooling)
    pooled.square().sum().backward()
    assert pooled.isfinite().all() and tokens.grad is not None and tokens.grad.isfinite().all()
