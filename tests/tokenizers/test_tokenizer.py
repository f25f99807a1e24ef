"""Tokenizers: round trips, truncation, storage."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from miniclip.config.build import build
from miniclip.config.compose import compose
from miniclip.errors import SettingError, UserError
from miniclip.runs import RunDirectory
from miniclip.tokenizers import (
    BPETokenizer,
    CLIPTokenizer,
    HFTokenizer,
    Tokenizer,
    UnigramTokenizer,
    WordPieceTokenizer,
)
from tests.conftest import TINY

CAPTIONS = ["a dog runs across the grass", "two dogs run", "the grass is green"]


LEARNT = (BPETokenizer, UnigramTokenizer, WordPieceTokenizer)


def trained(context_length: int = 12, kind: type = BPETokenizer, **changes: Any) -> Tokenizer:
    tokenizer = kind(vocab_size=400, lowercase=True, context_length=context_length, **changes)
    tokenizer.fit(CAPTIONS)
    return tokenizer


HARD = ["a dog", "zürich 雨 👩🏽‍🚒", "line\nbreak", "  spaces  ", "x" * 50, "", "\u200d", "mixed 狗dog狗"]


@pytest.mark.parametrize("kind", [BPETokenizer, UnigramTokenizer])
@pytest.mark.parametrize("text", HARD)
def test_round_trip_of_text_never_seen(text: str, kind: type) -> None:
    tokenizer = trained(context_length=200, kind=kind)
    token_ids, mask = tokenizer.encode([text])
    assert tokenizer.decode(token_ids[0][mask[0]].tolist()).strip() == text.strip()


def test_wordpiece_reads_what_it_has_seen() -> None:
    tokenizer = trained(context_length=200, kind=WordPieceTokenizer)
    for caption in CAPTIONS:
        token_ids, mask = tokenizer.encode([caption])
        assert tokenizer.decode(token_ids[0][mask[0]].tolist()) == caption
    unknown = tokenizer.backend.token_to_id("<unknown>")
    assert unknown in tokenizer.encode(["a 狗"])[0] and unknown not in tokenizer.encode(["a dog"])[0]


@pytest.mark.parametrize("kind", LEARNT)
def test_a_megabyte_keeps_its_head_and_its_end(kind: type) -> None:
    tokenizer = trained(kind=kind)
    token_ids, mask = tokenizer.encode(["dog grass " * 100_000])
    assert token_ids.shape == (1, 12) and mask.all()
    assert token_ids[0, 0] == tokenizer.backend.token_to_id("<start>")
    assert token_ids[0, -1] == tokenizer.backend.token_to_id("<end>")


@pytest.mark.parametrize("kind", LEARNT)
def test_what_is_remembered_is_what_is_encoded(kind: type) -> None:
    fresh = trained(6, kind)
    remembering = Tokenizer.from_state(fresh.state())
    captions = [*CAPTIONS, "a dog", "", "a dog"]
    longer = sum(length > 6 for length in fresh.lengths(captions))
    assert remembering.remember(captions) == longer > 0
    for batch in (captions, [*captions, "never seen dogs"], ["unseen"]):
        for ours, theirs in zip(remembering.encode(batch), fresh.encode(batch), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", LEARNT)
def test_one_that_learnt_from_the_same_can_be_taken_over(kind: type) -> None:
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


def test_clips_vocabulary_gives_open_clips_ids() -> None:
    open_clip = pytest.importorskip("open_clip", reason="needs the extra bench")
    tokenizer = CLIPTokenizer(context_length=77)
    assert tokenizer.vocab_size == 49408
    theirs = open_clip.get_tokenizer("ViT-B-32")
    texts = ["A dog's  life", "zürich 雨 👩🏽‍🚒 42nd", "it's... \n fine!", "", "x" * 50, "word " * 100]
    for text in texts:
        (ids,), (mask,) = tokenizer.encode([text])
        assert ids[mask].tolist() == theirs([text])[0][: int(mask.sum())].tolist()
    (ids,), (mask,) = tokenizer.encode(["a dog runs , fast"])
    assert tokenizer.decode(ids[mask].tolist()) == "a dog runs , fast"


def test_clips_vocabulary_without_a_package_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install open-clip-torch"):
        CLIPTokenizer(context_length=16)


def test_a_learnt_vocabulary_never_saw_the_validation_captions(tmp_path: Path) -> None:
    seen: list[str] = []
    cfg = compose(*TINY, "data.limit=40")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BPETokenizer, "fit", _recording(seen, BPETokenizer.fit))
        _, experiment, _ = build(cfg, RunDirectory(tmp_path))
    train, val = (
        {text for own in side.split.captions for text in own}
        for side in (experiment.train_set, experiment.val_set)
    )
    assert set(seen) == train and not set(seen) & (val - train)


def _recording(seen: list[str], fit: Any) -> Any:
    def recording(self: Tokenizer, captions: Any) -> None:
        seen.extend(captions)
        fit(self, seen)

    return recording


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
