"""Vocabularies that are learned: round trips, and from which captions."""

import logging
from pathlib import Path
from typing import Any

import pytest

from miniclip.config.build import build
from miniclip.config.compose import compose
from miniclip.errors import SettingError
from miniclip.runs import RunDirectory
from miniclip.tokenizers import BPETokenizer, Tokenizer, UnigramTokenizer, WordPieceTokenizer
from tests.conftest import TINY
from tests.tokenizers.conftest import CAPTIONS, TRAINED, trained

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


@pytest.mark.parametrize("kind", TRAINED)
def test_a_megabyte_keeps_its_head_and_its_end(kind: type) -> None:
    tokenizer = trained(kind=kind)
    token_ids, mask = tokenizer.encode(["dog grass " * 100_000])
    assert token_ids.shape == (1, 12) and mask.all()
    assert token_ids[0, 0] == tokenizer.backend.token_to_id("<start>")
    assert token_ids[0, -1] == tokenizer.backend.token_to_id("<end>")


def test_a_learned_vocabulary_never_saw_the_validation_captions(tmp_path: Path) -> None:
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


def test_training_twice_gives_the_same_vocabulary() -> None:
    assert trained().state() == trained().state()


def test_refuses_a_vocabulary_too_small_for_bytes() -> None:
    with pytest.raises(SettingError, match="vocab_size"):
        BPETokenizer(vocab_size=100, lowercase=True, context_length=8)


@pytest.mark.parametrize(
    ("kind", "vocab_size"), [(BPETokenizer, 259), (UnigramTokenizer, 260), (WordPieceTokenizer, 30)]
)
def test_a_vocabulary_beyond_its_limit_is_told(
    kind: Any, vocab_size: int, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = kind(vocab_size=vocab_size, lowercase=True, context_length=8)
    with caplog.at_level(logging.WARNING):
        tokenizer.fit(["the quick brown fox jumps over the lazy dog", "zürich äöü éèê"])

    if kind is BPETokenizer:
        assert tokenizer.vocab_size == vocab_size and not caplog.text
    else:
        told = f"tokenizer.vocab_size={vocab_size}: what of these captions is never left out takes"
        assert tokenizer.vocab_size > vocab_size
        assert f"{told} {tokenizer.vocab_size} token ids" in caplog.text
