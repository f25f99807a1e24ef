"""Captions to token ids. A tokenizer lives in the run directory and never needs the network again."""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from torch import Tensor

from miniclip.errors import SettingError
from miniclip.files import replacing
from miniclip.tokenizer_file import encoded, set_up, tokenizer_of

PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unknown>"

PRECOMPUTED_AT_ONCE = 10_000
"""Captions whose encodings are in memory at a time, before only their ids are kept."""


class Tokenizer:
    """`encode(list of B strings) -> token_ids (B, L) int64, attention_mask (B, L) bool`.

    L is the longest caption of the batch, rounded up, at most `context_length`; a longer caption loses its
    tail but keeps its end token. A caption is text: the name of a special token in it, such as <pad>, is no
    special token, unless a vocabulary holds it as an ordinary piece, too, as T5's does </s>. Several
    threads may encode at the same time.

    Args:
        backend: a trained tokenizer of the package tokenizers, or None before `fit`.
        context_length: the most tokens a caption may have, start and end included.
        pad_to_multiple_of: L is rounded up to a multiple of it, so that a compiled model sees few shapes.
        pad_token: the token that fills up shorter captions.
        learnt_from: a hash of the captions and settings that the vocabulary was learned with.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer | None,
        *,
        context_length: int,
        pad_to_multiple_of: int = 1,
        pad_token: str = PAD,
        learnt_from: str | None = None,
    ):
        if context_length < 3:
            raise SettingError("context_length", context_length, "must be at least 3 tokens")
        if pad_to_multiple_of < 1:
            raise SettingError("pad_to_multiple_of", pad_to_multiple_of, "must be at least 1")
        self.context_length = context_length
        self.pad_to_multiple_of = pad_to_multiple_of
        self.pad_token = pad_token
        self.learnt_from = learnt_from
        self._backend: tokenizers.Tokenizer | None = None
        self._ids_of: dict[str, np.ndarray] = {}
        if backend is not None:
            self._adopt(backend)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self._backend is not None:
            set_up(self._backend, context_length=self.context_length)
        self.__dict__.pop("_untruncated", None)

    @property
    def backend(self) -> tokenizers.Tokenizer:
        """The trained tokenizer of the package tokenizers."""
        assert self._backend is not None, "fit() comes first"
        return self._backend

    @cached_property
    def _untruncated(self) -> tokenizers.Tokenizer:
        """A copy that cuts nothing off, since truncation is a state of the tokenizer."""
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        set_up(backend, context_length=None)
        return backend

    @property
    def vocab_size(self) -> int:
        """Number of token ids, unused ones included: one more than the highest."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1)

    def fit(self, captions: Iterable[str]) -> None:
        """Learn the vocabulary from the training captions; a ready-made tokenizer has nothing to learn."""

    def encode(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids (B, L) int64 and attention mask (B, L) bool of B captions."""
        ids_of_captions = self._lookup(captions)

        # rounded up to the multiple, which may be more than the model sees
        longest = max(map(len, ids_of_captions), default=0)
        multiple = self.pad_to_multiple_of
        length = min(-(-longest // multiple) * multiple, self.context_length)

        shape = len(captions), length
        token_ids = np.full(shape, self.backend.token_to_id(self.pad_token), dtype=np.int64)
        attention_mask = np.zeros(shape, dtype=np.bool_)
        for row, ids in enumerate(ids_of_captions):
            token_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = True
        return torch.from_numpy(token_ids), torch.from_numpy(attention_mask)

    def precompute(self, captions: Iterable[str]) -> int:
        """Encode captions once and for all.

        Returns:
            how many of them are longer than `context_length` and lose their tail.
        """
        num_truncated = 0
        iterator = iter(captions)
        # in pieces: encodings take far more memory than their ids
        while chunk := list(islice(iterator, PRECOMPUTED_AT_ONCE)):
            encodings = encoded(self.backend, chunk)
            self._ids_of.update(_ids_by_caption(chunk, encodings))
            num_truncated += sum(len(encoding.overflowing) > 0 for encoding in encodings)
        return num_truncated

    def lengths(self, captions: list[str]) -> list[int]:
        """Number of tokens of each caption, nothing cut off or filled up."""
        return [len(encoding.ids) for encoding in encoded(self._untruncated, captions)]

    def too_long(self, captions: Sequence[str]) -> list[str]:
        """The captions that lose their tail, having more than `context_length` tokens."""
        lengths = self.lengths(list(captions))
        return [
            caption
            for caption, length in zip(captions, lengths, strict=True)
            if length > self.context_length
        ]

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of one caption's ids, special tokens left out."""
        added = self.backend.get_added_tokens_decoder()
        spoken = [number for number in token_ids if number not in added or not added[number].special]
        return self.backend.decode(spoken) if spoken else ""  # decoders of the package panic at nothing

    def state(self) -> dict[str, Any]:
        """All there is to know, as plain data; see `from_state`."""
        return {
            "backend": self.backend.to_str(),
            "context_length": self.context_length,
            "pad_to_multiple_of": self.pad_to_multiple_of,
            "pad_token": self.pad_token,
            "learnt_from": self.learnt_from,
        }

    def adopt_state(self, state: dict[str, Any]) -> bool:
        """Become another tokenizer that learned from the same: two trainings need not give the same.

        Returns:
            whether it could.
        """
        current = self.state()
        if current == state:
            return True

        if current["learnt_from"] is None or current | {"backend": None} != state | {"backend": None}:
            return False
        self._adopt(tokenizer_of(state["backend"]))
        return True

    @staticmethod
    def from_state(state: dict) -> "Tokenizer":
        """The tokenizer whose `state` this is.

        Raises:
            UserError: when it is damaged.
        """
        settings = dict(state)
        return Tokenizer(tokenizer_of(settings.pop("backend")), **settings)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json (readable by the package tokenizers) and settings.json."""
        folder.mkdir(parents=True, exist_ok=True)
        state = self.state()
        # each file appears whole or not at all
        for name, text in (("tokenizer", state.pop("backend")), ("settings", json.dumps(state))):
            with replacing(folder / f"{name}.json") as file:
                file.write(text)

    @staticmethod
    def load(folder: Path) -> "Tokenizer":
        """The tokenizer that `save` wrote into a folder."""
        state = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        state["backend"] = (folder / "tokenizer.json").read_text(encoding="utf-8")
        return Tokenizer.from_state(state)

    def _lookup(self, captions: Sequence[str]) -> list[np.ndarray]:
        """The ids of each caption, precomputed or encoded now; other threads may do the same."""
        known = self._ids_of
        new = [caption for caption in captions if caption not in known]
        if not new:
            return [known[caption] for caption in captions]

        # what is encoded now is not kept: captions without an end would fill the memory
        new_ids = _ids_by_caption(new, encoded(self.backend, new))
        return [new_ids[caption] if caption in new_ids else known[caption] for caption in captions]

    def _adopt(self, backend: tokenizers.Tokenizer) -> None:
        if backend.token_to_id(self.pad_token) is None:
            raise SettingError("pad_token", self.pad_token, "is not in the vocabulary")
        set_up(backend, context_length=self.context_length)
        self._backend = backend
        self.__dict__.pop("_untruncated", None)
        self._ids_of = {}  # a new one, since another thread may be reading the old one


def _ids_by_caption(
    captions: Sequence[str], encodings: Sequence[tokenizers.Encoding]
) -> dict[str, np.ndarray]:
    return {
        caption: np.array(encoding.ids, dtype=np.int32)
        for caption, encoding in zip(captions, encodings, strict=True)
    }
