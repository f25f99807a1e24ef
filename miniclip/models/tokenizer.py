"""Captions to token ids. A tokenizer lives in the run directory and never needs the network again."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from miniclip.errors import SettingError, UserError

PAD, START, END = "<pad>", "<start>", "<end>"


class Tokenizer:
    """`encode(list of B strings) -> token_ids (B, L) int64, attention_mask (B, L) bool`.

    L is the longest caption of the batch, at most `context_length`; a longer caption loses its tail but
    keeps its end token.

    Args:
        backend: a trained tokenizer of the package tokenizers, or None before `fit`.
        context_length: the most tokens a caption may have, start and end included.
        pad_token: the token that fills up shorter captions.
    """

    def __init__(self, backend: tokenizers.Tokenizer | None, *, context_length: int, pad_token: str = PAD):
        if context_length < 3:
            raise SettingError("context_length", context_length, "must be at least 3 tokens")
        self.context_length = context_length
        self.pad_token = pad_token
        self._backend: tokenizers.Tokenizer | None = None
        if backend is not None:
            self._adopt(backend)

    @property
    def backend(self) -> tokenizers.Tokenizer:
        assert self._backend is not None, "fit() comes first"
        return self._backend

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.backend.get_vocab_size()

    def fit(self, captions: Iterable[str]) -> None:
        """Learn the vocabulary from the training captions; a ready-made tokenizer has nothing to learn."""

    def encode(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        encodings = self.backend.encode_batch_fast(captions)
        token_ids = torch.tensor([encoding.ids for encoding in encodings])
        attention_mask = torch.tensor([encoding.attention_mask for encoding in encodings])
        return token_ids, attention_mask.bool()

    def lengths(self, captions: list[str]) -> list[int]:
        """Number of tokens of each caption, nothing cut off or filled up."""
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        backend.no_truncation()
        backend.no_padding()
        return [len(encoding.ids) for encoding in backend.encode_batch_fast(captions)]

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of one caption's ids, special tokens left out."""
        return self.backend.decode(list(token_ids))

    def state(self) -> dict[str, str | int]:
        """All there is to know, as plain data; see `from_state`."""
        return {
            "backend": self.backend.to_str(),
            "context_length": self.context_length,
            "pad_token": self.pad_token,
        }

    @staticmethod
    def from_state(state: dict) -> "Tokenizer":
        return Tokenizer(
            tokenizers.Tokenizer.from_str(state["backend"]),
            context_length=state["context_length"],
            pad_token=state["pad_token"],
        )

    def save(self, folder: Path) -> None:
        """Write tokenizer.json (readable by the package tokenizers) and settings.json."""
        folder.mkdir(parents=True, exist_ok=True)
        state = self.state()
        (folder / "tokenizer.json").write_text(str(state.pop("backend")), encoding="utf-8")
        (folder / "settings.json").write_text(json.dumps(state), encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> "Tokenizer":
        state = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        state["backend"] = (folder / "tokenizer.json").read_text(encoding="utf-8")
        return Tokenizer.from_state(state)

    def _adopt(self, backend: tokenizers.Tokenizer) -> None:
        pad_id = backend.token_to_id(self.pad_token)
        assert pad_id is not None, f"{self.pad_token} is not in the vocabulary"
        backend.enable_truncation(self.context_length)
        backend.enable_padding(pad_id=pad_id, pad_token=self.pad_token)
        self._backend = backend


class BPETokenizer(Tokenizer):
    """Byte-pair encoding (Sennrich et al. 2016) on bytes, so that no text is unknown.

    Args:
        vocab_size: the most token ids; at least 256 bytes and 3 special tokens.
        lowercase: read capitals as small letters.
        context_length: see `Tokenizer`.
    """

    def __init__(self, *, vocab_size: int, lowercase: bool, context_length: int):
        super().__init__(None, context_length=context_length)
        if vocab_size < 259:
            raise SettingError("vocab_size", vocab_size, "must be at least 259 (bytes and specials)")
        self.max_vocab_size = vocab_size
        self.lowercase = lowercase

    def fit(self, captions: Iterable[str]) -> None:
        backend = tokenizers.Tokenizer(models.BPE())
        backend.normalizer = normalizers.Sequence(
            [normalizers.NFC(), *([normalizers.Lowercase()] if self.lowercase else [])]
        )
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.max_vocab_size,
            special_tokens=[PAD, START, END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(captions, trainer)
        backend.post_processor = processors.TemplateProcessing(
            single=f"{START} $A {END}",
            special_tokens=[(token, backend.token_to_id(token)) for token in (START, END)],
        )
        self._adopt(backend)


class HFTokenizer(Tokenizer):
    """The tokenizer of a Hugging Face model.

    Args:
        name: a name on the hub, or a local folder with the tokenizer's files.
        context_length: see `Tokenizer`.

    Raises:
        UserError: when it can neither be read nor downloaded; says where a local folder goes.
    """

    def __init__(self, *, name: str, context_length: int):
        from transformers import AutoTokenizer

        try:
            loaded = AutoTokenizer.from_pretrained(os.path.expanduser(name), use_fast=True)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"tokenizer.name={name} cannot be loaded ({reason}). Without network, save the "
                "tokenizer's files (tokenizer.json, tokenizer_config.json) into a folder and give "
                "its path: tokenizer=hf tokenizer.name=FOLDER"
            ) from None
        if not loaded.is_fast:
            raise SettingError("name", name, "has no fast version (tokenizer.json); choose another")
        backend = tokenizers.Tokenizer.from_str(loaded.backend_tokenizer.to_str())
        pad_token = loaded.pad_token
        if pad_token is None:  # GPT-2 has none
            pad_token = PAD
            backend.add_special_tokens([PAD])
        if backend.post_processor is None or not _adds_end(backend):
            _add_end(backend, loaded.eos_token or loaded.sep_token)
        super().__init__(backend, context_length=context_length, pad_token=pad_token)


def _adds_end(backend: tokenizers.Tokenizer) -> bool:
    return len(backend.encode("").ids) > 0


def _add_end(backend: tokenizers.Tokenizer, end_token: str | None) -> None:
    """GPT-2's tokenizer ends a caption with nothing; an empty caption must still have a token."""
    if end_token is None:
        end_token = END
        backend.add_special_tokens([END])
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {end_token}", special_tokens=[(end_token, backend.token_to_id(end_token))]
    )
