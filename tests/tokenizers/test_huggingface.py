"""Tokenizers of Hugging Face models, out of a local folder."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from miniclip.errors import UserError
from miniclip.tokenizers import HFTokenizer, Tokenizer
from tests.tokenizers.conftest import trained


def test_a_local_hugging_face_folder_without_pad_token(tmp_path: Path) -> None:
    backend = trained().backend
    backend.no_truncation()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>").save_pretrained(tmp_path)
    tokenizer = HFTokenizer(name=str(tmp_path), context_length=8)
    token_ids, mask = tokenizer.encode(["a dog", "the grass is green"])
    assert token_ids.shape == mask.shape and not mask.all()
    # no id more than the model has rows
    assert tokenizer.vocab_size == backend.get_vocab_size()
    assert (token_ids[~mask] == backend.token_to_id("<end>")).all()
    assert Tokenizer.from_state(tokenizer.state()).vocab_size == tokenizer.vocab_size


def test_a_special_tokens_name_in_a_caption_is_text(tmp_path: Path) -> None:
    backend = trained().backend
    special = {"eos_token": "<end>", "pad_token": "<pad>", "additional_special_tokens": ["<|more|>"]}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(tmp_path)
    tokenizer = HFTokenizer(name=str(tmp_path), context_length=60)
    text = "a <pad> dog<end> runs <|more|>"
    for same in (tokenizer, Tokenizer.from_state(tokenizer.state())):
        (ids,), _ = same.encode([text])
        assert same.decode(ids.tolist()).strip() == text


def test_a_hub_name_without_network_says_where_a_folder_goes() -> None:
    with pytest.raises(UserError, match=r"tokenizer=hf tokenizer\.name=FOLDER"):
        HFTokenizer(name="gpt2", context_length=8)
