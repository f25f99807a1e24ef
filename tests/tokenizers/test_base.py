"""Tokenizers: truncation, padding, storage, and many threads at once."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from miniclip.errors import UserError
from miniclip.tokenizers import Tokenizer, WordPieceTokenizer
from tests.tokenizers.conftest import CAPTIONS, TRAINED, trained


@pytest.mark.parametrize("kind", TRAINED)
def test_what_is_precomputed_is_what_is_encoded(kind: type) -> None:
    fresh = trained(6, kind)
    precomputing = Tokenizer.from_state(fresh.state())
    captions = [*CAPTIONS, "a dog", "", "a dog"]
    longer = sum(length > 6 for length in fresh.lengths(captions))
    assert precomputing.precompute(captions) == longer > 0
    for batch in (captions, [*captions, "never seen dogs"], ["unseen"]):
        for ours, theirs in zip(precomputing.encode(batch), fresh.encode(batch), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", TRAINED)
def test_one_that_learned_from_the_same_can_be_taken_over(kind: type) -> None:
    first, second = trained(12, kind), trained(12, kind)
    assert second.adopt_state(first.state()) and second.state() == first.state()
    other = kind(vocab_size=400, lowercase=True, context_length=12)
    other.fit([*CAPTIONS, "one more"])
    assert not second.adopt_state(other.state()) and second.state() == first.state()
    assert not second.adopt_state(trained(13, kind).state())


def test_batches_are_rounded_up_and_never_longer_than_the_context() -> None:
    tokenizer = trained(pad_to_multiple_of=8)
    exact = trained()
    for captions, length in ((["a"], 8), (CAPTIONS, 8), ([" ".join(CAPTIONS)], 12)):
        token_ids, mask = tokenizer.encode(captions)
        assert token_ids.shape == mask.shape == (len(captions), length)
        expected, expected_mask = exact.encode(captions)
        assert torch.equal(token_ids[:, : expected.shape[1]], expected)
        assert torch.equal(mask[:, : expected.shape[1]], expected_mask)
        assert not mask[:, expected.shape[1] :].any()


def test_shapes_and_padding() -> None:
    tokenizer = trained()
    token_ids, mask = tokenizer.encode(["a dog", "", "the grass is green"])
    assert token_ids.dtype is torch.int64 and mask.dtype is torch.bool
    assert token_ids.shape == mask.shape
    assert mask.sum(dim=1).tolist()[1] == 2  # an empty caption is its start and end
    assert mask.any(dim=0).all()  # cut at the longest caption
    assert token_ids.max() < tokenizer.vocab_size


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        (None, "A caption is a text, not NoneType: None"),
        (("a dog", "a cat"), r"not tuple: \('a dog', 'a cat'\)"),
        (["a dog", "a cat"], "not list"),
        (b"a dog", "not bytes"),
        ("a \udcff dog", r"'a \\udcff dog' is no text: its letter 3 is half a character"),
    ],
)
def test_what_is_no_text_is_told(caption: Any, said: str) -> None:
    tokenizer = trained()
    for read in (tokenizer.lengths, tokenizer.too_long, tokenizer.precompute):
        with pytest.raises(UserError, match=said):
            read(["a dog", caption])


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


@pytest.mark.parametrize("kind", TRAINED)
def test_a_special_tokens_name_in_a_caption_is_text(kind: type, tmp_path: Path) -> None:
    tokenizer = trained(80, kind)
    tokenizer.save(tmp_path)
    tokenizer.encode(CAPTIONS)

    text = "a <pad> dog<end> runs <start> <unknown>"
    again = (Tokenizer.load(tmp_path), copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer)))
    for same in (tokenizer, *again):
        (ids,), (mask,) = same.encode([text])
        assert mask.all() and same.lengths([text]) == [len(ids)]
        start, *inside, end = ids.tolist()
        assert (start, end) == tuple(map(same.backend.token_to_id, ("<start>", "<end>")))
        assert not {same.backend.token_to_id(name) for name in ("<pad>", "<start>", "<end>")} & {*inside}
        if kind is not WordPieceTokenizer:  # which has never seen brackets
            assert same.decode(ids.tolist()).strip() == text


def test_threads_encode_while_captions_are_precomputed() -> None:
    tokenizer = trained()
    captions = [f"{CAPTIONS[number % 3]} {number}" for number in range(300)]
    expected = trained().encode(captions)
    with ThreadPoolExecutor(3) as threads:
        results = [threads.submit(tokenizer.encode, captions) for _ in range(6)]
        tokenizer.precompute(captions)
        results += [threads.submit(tokenizer.encode, captions) for _ in range(6)]
    for result in results:
        for ours, theirs in zip(result.result(), expected, strict=True):
            assert torch.equal(ours, theirs)
