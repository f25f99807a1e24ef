"""Tokenizers: round trips, truncation, storage."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from miniclip.errors import SettingError, UserError
from miniclip.models import BPETokenizer, HFTokenizer, Tokenizer

CAPTIONS = ["a dog runs across the grass", "two dogs run", "the grass is green"]


def trained(context_length: int = 12) -> BPETokenizer:
    tokenizer = BPETokenizer(vocab_size=400, lowercase=True, context_length=context_length)
    tokenizer.fit(CAPTIONS)
    return tokenizer


@pytest.mark.parametrize("text", ["a dog", "zürich 雨 👩🏽‍🚒", "line\nbreak", "  spaces  ", "x" * 50])
def test_round_trip_of_text_never_seen(text: str) -> None:
    tokenizer = trained(context_length=200)
    token_ids, _ = tokenizer.encode([text])
    assert tokenizer.decode(token_ids[0].tolist()).strip() == text.strip()


def test_shapes_and_padding() -> None:
    tokenizer = trained()
    token_ids, mask = tokenizer.encode(["a dog", "", "the grass is green"])
    assert token_ids.dtype is torch.int64 and mask.dtype is torch.bool
    assert token_ids.shape == mask.shape
    assert mask.sum(dim=1).tolist()[1] == 2  # an empty caption is its start and end
    assert mask.any(dim=0).all()  # cut at the longest caption
    assert token_ids.max() < tokenizer.vocab_size


def test_the_end_token_survives_truncation() -> None:
    tokenizer = trained(context_length=5)
    token_ids, mask = tokenizer.encode(["a dog runs across the grass and over the hill"])
    assert token_ids.shape == (1, 5) and mask.all()
    short, _ = tokenizer.encode(["a"])
    assert token_ids[0, -1] == short[0, -1]


def test_stored_and_loaded_it_encodes_the_same(tmp_path: Path) -> None:
    tokenizer = trained()
    tokenizer.save(tmp_path)
    for restored in (Tokenizer.load(tmp_path), Tokenizer.from_state(tokenizer.state())):
        assert restored.vocab_size == tokenizer.vocab_size
        for ours, theirs in zip(restored.encode(CAPTIONS), tokenizer.encode(CAPTIONS), strict=True):
            assert torch.equal(ours, theirs)


def test_training_twice_gives_the_same_vocabulary() -> None:
    assert trained().state() == trained().state()


def test_a_local_hugging_face_folder_without_pad_token(tmp_path: Path) -> None:
    backend = trained().backend
    backend.no_padding()
    backend.no_truncation()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>").save_pretrained(tmp_path)
    tokenizer = HFTokenizer(name=str(tmp_path), context_length=8)
    token_ids, mask = tokenizer.encode(["a dog", "the grass is green"])
    assert token_ids.shape == mask.shape and not mask.all()
    assert Tokenizer.from_state(tokenizer.state()).vocab_size == tokenizer.vocab_size


def test_a_hub_name_without_network_says_where_a_folder_goes() -> None:
    with pytest.raises(UserError, match=r"tokenizer=hf tokenizer\.name=FOLDER"):
        HFTokenizer(name="gpt2", context_length=8)


def test_refuses_a_vocabulary_too_small_for_bytes() -> None:
    with pytest.raises(SettingError, match="vocab_size"):
        BPETokenizer(vocab_size=100, lowercase=True, context_length=8)
