"""Text towers: pooling, the bag, models of Hugging Face, raw strings."""

import builtins
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from miniclip.errors import SettingError, UserError
from miniclip.models import (
    BagOfTokens,
    FullAttention,
    HFTextModel,
    TextEncoder,
    linformer_attention,
)
from miniclip.models.text_encoder import pool
from miniclip.tokenizers import HFTokenizer
from tests.bundles import hugging_face_folder
from tests.tokenizers.conftest import trained

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


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A small BERT with a tokenizer."""
    return hugging_face_folder(tmp_path / "bert")


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


@pytest.mark.parametrize("kind", ["GPT2", "XLNet"])
def test_models_with_a_full_table_and_of_masks_in_numbers(kind: str, tmp_path: Path) -> None:
    backend = trained().backend
    backend.no_truncation()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    tokenizer.save_pretrained(tmp_path)
    sizes: dict[str, Any] = {
        "GPT2": {"n_embd": 16, "n_layer": 1, "n_head": 2},
        "XLNet": {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32},
    }
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), **sizes[kind])
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)

    ours = HFTokenizer(name=str(tmp_path), context_length=16)
    encoder = hf_model(tmp_path, vocab_size=ours.vocab_size).eval()
    alone, beside = encoder(*ours.encode(CAPTIONS[:1])), encoder(*ours.encode(CAPTIONS))
    torch.testing.assert_close(alone[0], beside[0], atol=1e-6, rtol=1e-5)


def test_a_folder_is_loaded_without_a_bar(bert: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hf_model(bert)
    assert capfd.readouterr().err == ""


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


SIZES = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
STACKS = {
    "vocab_size": 100,
    "d_model": 32,
    **{f"{stack}_{key}": 1 for stack in ("encoder", "decoder") for key in ("layers", "attention_heads")},
    **{f"{stack}_ffn_dim": 64 for stack in ("encoder", "decoder")},
}
T5 = {"vocab_size": 100, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
VISION = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
TEXT_MODELS: dict[str, tuple[dict[str, Any], int | None]] = {
    "Bert": (SIZES, 512),
    "Roberta": ({**SIZES, "max_position_embeddings": 514}, 512),  # two rows are for padding
    "XLMRoberta": ({**SIZES, "max_position_embeddings": 66}, 64),
    "DistilBert": ({"vocab_size": 100, "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}, 512),
    "GPT2": ({"vocab_size": 100, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 48}, 48),
    "T5": (T5, None),
    "MT5": (T5, None),
    "Bart": ({**STACKS, "max_position_embeddings": 40}, 40),
    "MBart": (STACKS, 1024),
    "CLIP": ({"text_config": SIZES, "vision_config": {**VISION, "image_size": 32}}, 77),
    "Electra": ({**SIZES, "embedding_size": 32}, 512),
    "Albert": ({**SIZES, "embedding_size": 16}, 512),
    "DebertaV2": (SIZES, 512),
}


@pytest.mark.parametrize("kind", TEXT_MODELS)
@pytest.mark.filterwarnings("ignore")
def test_any_text_model_of_hugging_face(kind: str, tmp_path: Path) -> None:
    """Of random weights: it encodes, padding changes nothing, and it knows how long a caption may be."""
    import transformers

    settings, positions = TEXT_MODELS[kind]
    config = getattr(transformers, f"{kind}Config")(**settings)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    tower = partial(
        HFTextModel,
        vocab_size=100,
        name=str(tmp_path),
        config=None,
        frozen=False,
        pooling="mean",
        embed_dim=8,
    )
    made = tower(context_length=positions).eval()
    token_ids = torch.randint(3, 100, (2, 6))
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    features = made(token_ids, mask)
    assert features.shape == (2, 8)
    token_ids[1, 4:] = 7
    torch.testing.assert_close(made(token_ids, mask), features, atol=1e-5, rtol=1e-4)
    if positions is not None:
        with pytest.raises(
            SettingError, match=f"more than the {positions:,} positions of encoder.text.name"
        ):
            tower(context_length=positions + 1)
        longest = torch.full((1, positions), 5)
        assert made(longest, torch.ones_like(longest).bool()).shape == (1, 8)


def test_an_encoder_that_was_saved_alone_is_taken(tmp_path: Path) -> None:
    import transformers

    transformers.T5EncoderModel(transformers.T5Config(**T5)).save_pretrained(tmp_path)
    tower = HFTextModel(
        vocab_size=100, name=str(tmp_path), config=None, frozen=True, pooling="mean", embed_dim=8
    )
    assert not any("decoder" in name for name, _ in tower.named_parameters())


def test_a_model_of_images_is_no_text_tower(tmp_path: Path) -> None:
    import transformers

    transformers.ViTModel(transformers.ViTConfig(**VISION)).save_pretrained(tmp_path)
    with pytest.raises(SettingError, match="is no text model but ViTModel"):
        HFTextModel(
            vocab_size=100, name=str(tmp_path), config=None, frozen=True, pooling="mean", embed_dim=8
        )


def test_a_folder_without_a_tokenizer_is_told(tmp_path: Path) -> None:
    import transformers

    transformers.T5Config(**T5).save_pretrained(tmp_path)
    with pytest.raises(SettingError, match=r"holds no tokenizer; save tokenizer\.json"):
        HFTokenizer(name=str(tmp_path), context_length=16)


def test_code_that_a_model_brings_is_never_run(tmp_path: Path) -> None:
    """Nor is anybody asked whether it may."""
    canary = tmp_path / "ran"
    (tmp_path / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "code.Own", "AutoModel": "code.OwnModel"}}'
    )
    (tmp_path / "code.py").write_text(f"open({str(canary)!r}, 'w')")
    with pytest.raises(UserError):
        HFTextModel(
            vocab_size=100, name=str(tmp_path), config=None, frozen=True, pooling="mean", embed_dim=8
        )
    assert not canary.exists()
