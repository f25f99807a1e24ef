"""Tokenizers whose vocabulary is learned from the training captions."""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from miniclip.errors import SettingError
from miniclip.tokenizers.base import END, PAD, START, UNKNOWN, Tokenizer

log = logging.getLogger(__name__)


class TrainedTokenizer(Tokenizer, ABC):
    """A vocabulary learned from the training captions.

    Args:
        vocab_size: the most token ids; where letters and pieces that every vocabulary keeps are more, they
            stay, which is told.
        lowercase: read capitals as lower-case letters.
        context_length, pad_to_multiple_of: see `Tokenizer`.
    """

    least_vocab_size: ClassVar[int]

    def __init__(
        self, *, vocab_size: int, lowercase: bool, context_length: int, pad_to_multiple_of: int = 1
    ):
        super().__init__(None, context_length=context_length, pad_to_multiple_of=pad_to_multiple_of)
        if vocab_size < self.least_vocab_size:
            raise SettingError(
                "vocab_size", vocab_size, f"must be at least {self.least_vocab_size} (letters and specials)"
            )
        self.max_vocab_size = vocab_size
        self.lowercase = lowercase

    def fit(self, captions: Iterable[str]) -> None:
        backend, trainer = self._untrained()
        lowercase = [normalizers.Lowercase()] if self.lowercase else []
        backend.normalizer = normalizers.Sequence([normalizers.NFC(), *lowercase])

        # hashed as they pass, since the captions may be a stream
        digest = hashlib.sha256(f"{type(self).__name__} {self.max_vocab_size} {self.lowercase}".encode())

        def hashed() -> Iterator[str]:
            for caption in captions:
                digest.update(caption.encode("utf-8", "surrogatepass") + b"\0")
                yield caption

        backend.train_from_iterator(hashed(), trainer)
        self.learnt_from = digest.hexdigest()

        backend.post_processor = processors.TemplateProcessing(
            single=f"{START} $A {END}",
            special_tokens=[(token, backend.token_to_id(token)) for token in (START, END)],
        )
        self._adopt(backend)
        if self.vocab_size > self.max_vocab_size:
            log.warning(
                "tokenizer.vocab_size=%d: what of these captions is never left out takes %s token ids, "
                "which the vocabulary has.",
                self.max_vocab_size,
                f"{self.vocab_size:,}",
            )

    @abstractmethod
    def _untrained(self) -> tuple[tokenizers.Tokenizer, trainers.Trainer]:
        """An empty tokenizer and what trains it."""


class BPETokenizer(TrainedTokenizer):
    """Byte-pair encoding (Sennrich et al. 2016) on bytes, so that no text is unknown.

    Args:
        trained_settings: see `TrainedTokenizer`.
    """

    least_vocab_size = 259

    def _untrained(self) -> tuple[tokenizers.Tokenizer, trainers.Trainer]:
        backend = _on_bytes(models.BPE())
        return backend, trainers.BpeTrainer(
            vocab_size=self.max_vocab_size,
            special_tokens=[PAD, START, END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )


class UnigramTokenizer(TrainedTokenizer):
    """Unigram language model (Kudo 2018) on bytes, so that no text is unknown.

    Args:
        trained_settings: see `TrainedTokenizer`.
    """

    least_vocab_size = 260

    def _untrained(self) -> tuple[tokenizers.Tokenizer, trainers.Trainer]:
        backend = _on_bytes(models.Unigram())
        return backend, trainers.UnigramTrainer(
            vocab_size=self.max_vocab_size,
            special_tokens=[PAD, START, END, UNKNOWN],
            unk_token=UNKNOWN,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )


class WordPieceTokenizer(TrainedTokenizer):
    """WordPiece (Schuster and Nakajima 2012), as BERT has it; a word with a letter never seen is unknown.

    Args:
        trained_settings: see `TrainedTokenizer`.
    """

    least_vocab_size = 30

    def _untrained(self) -> tuple[tokenizers.Tokenizer, trainers.Trainer]:
        backend = tokenizers.Tokenizer(models.WordPiece(unk_token=UNKNOWN))
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        return backend, trainers.WordPieceTrainer(
            vocab_size=self.max_vocab_size,
            special_tokens=[PAD, START, END, UNKNOWN],
            show_progress=False,
        )


def _on_bytes(model: Any) -> tokenizers.Tokenizer:
    """A tokenizer that reads text as bytes, a letter for each."""
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    return backend
