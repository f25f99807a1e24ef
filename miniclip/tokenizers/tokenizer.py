"""Captions to token ids. A tokenizer lives in the run directory and never needs the network again."""

import gzip
import hashlib
import importlib.util
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from miniclip.errors import SettingError, UserError
from miniclip.files import replacing

PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unknown>"

REMEMBERED_AT_ONCE = 10_000


class Tokenizer:
    """`encode(list of B strings) -> token_ids (B, L) int64, attention_mask (B, L) bool`.

    L is the longest caption of the batch, rounded up, at most `context_length`; a longer caption loses its
    tail but keeps its end token.

    Args:
        backend: a trained tokenizer of the package tokenizers, or None before `fit`.
        context_length: the most tokens a caption may have, start and end included.
        pad_to_multiple_of: L is rounded up to a multiple of it, so that a compiled model sees few shapes.
        pad_token: the token that fills up shorter captions.
        learnt_from: a hash of the captions and settings that the vocabulary was learnt with.
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
        self._known: dict[str, np.ndarray] = {}
        if backend is not None:
            self._adopt(backend)

    @property
    def backend(self) -> tokenizers.Tokenizer:
        assert self._backend is not None, "fit() comes first"
        return self._backend

    @property
    def vocab_size(self) -> int:
        """Number of token ids, unused ones included: one more than the highest."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1)

    def fit(self, captions: Iterable[str]) -> None:
        """Learn the vocabulary from the training captions; a ready-made tokenizer has nothing to learn."""

    def encode(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        known = self._known
        new = [caption for caption in captions if caption not in known]
        if new:
            known = {**{c: known[c] for c in captions if c in known}, **self._encoded(new)}
        own = [known[caption] for caption in captions]
        longest = max(map(len, own), default=0)
        multiple = self.pad_to_multiple_of
        length = min(-(-longest // multiple) * multiple, self.context_length)
        token_ids = np.full((len(own), length), self.backend.token_to_id(self.pad_token), dtype=np.int64)
        attention_mask = np.zeros((len(own), length), dtype=np.bool_)
        for row, ids in enumerate(own):
            token_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = True
        return torch.from_numpy(token_ids), torch.from_numpy(attention_mask)

    def remember(self, captions: Iterable[str]) -> int:
        """Encode captions once and for all.

        Returns:
            how many of them are longer than `context_length` and lose their tail.
        """
        num_truncated = 0
        iterator = iter(captions)
        while chunk := list(islice(iterator, REMEMBERED_AT_ONCE)):
            encodings = _encodings(self.backend, chunk)
            for caption, encoding in zip(chunk, encodings, strict=True):
                self._known[caption] = np.array(encoding.ids, dtype=np.int32)
                num_truncated += len(encoding.overflowing) > 0
        return num_truncated

    def lengths(self, captions: list[str]) -> list[int]:
        """Number of tokens of each caption, nothing cut off or filled up."""
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        backend.no_truncation()
        return [len(encoding.ids) for encoding in _encodings(backend, captions)]

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of one caption's ids, special tokens left out."""
        return self.backend.decode(list(token_ids))

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
        """Become another tokenizer that learnt from the same: two trainings need not give the same.

        Returns:
            whether it could.
        """
        own = self.state()
        if own != state:
            if own["learnt_from"] is None or own | {"backend": None} != state | {"backend": None}:
                return False
            self._adopt(tokenizers.Tokenizer.from_str(state["backend"]))
        return True

    @staticmethod
    def from_state(state: dict) -> "Tokenizer":
        settings = dict(state)
        return Tokenizer(tokenizers.Tokenizer.from_str(settings.pop("backend")), **settings)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json (readable by the package tokenizers) and settings.json."""
        folder.mkdir(parents=True, exist_ok=True)
        state = self.state()
        for name, text in (("tokenizer", state.pop("backend")), ("settings", json.dumps(state))):
            with replacing(folder / f"{name}.json") as file:
                file.write(text)

    @staticmethod
    def load(folder: Path) -> "Tokenizer":
        state = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        state["backend"] = (folder / "tokenizer.json").read_text(encoding="utf-8")
        return Tokenizer.from_state(state)

    def _encoded(self, captions: list[str]) -> dict[str, np.ndarray]:
        encodings = _encodings(self.backend, captions)
        return {
            caption: np.array(encoding.ids, dtype=np.int32)
            for caption, encoding in zip(captions, encodings, strict=True)
        }

    def _adopt(self, backend: tokenizers.Tokenizer) -> None:
        if backend.token_to_id(self.pad_token) is None:
            raise SettingError("pad_token", self.pad_token, "is not in the vocabulary")
        backend.enable_truncation(self.context_length)
        backend.no_padding()
        self._backend = backend
        self._known = {}  # anew: another thread may read the old one


class TrainedTokenizer(Tokenizer, ABC):
    """A vocabulary learnt from the training captions.

    Args:
        vocab_size: the most token ids.
        lowercase: read capitals as small letters.
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
        small = [normalizers.Lowercase()] if self.lowercase else []
        backend.normalizer = normalizers.Sequence([normalizers.NFC(), *small])
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

    @abstractmethod
    def _untrained(self) -> tuple[tokenizers.Tokenizer, trainers.Trainer]:
        """An empty tokenizer and what trains it."""


class BPETokenizer(TrainedTokenizer):
    """Byte-pair encoding (Sennrich et al. 2016) on bytes, so that no text is unknown.

    Args:
        learnt_settings: see `TrainedTokenizer`.
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
        learnt_settings: see `TrainedTokenizer`.
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
        learnt_settings: see `TrainedTokenizer`.
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


class CLIPTokenizer(Tokenizer):
    """OpenAI's vocabulary of CLIP, 49,408 tokens, from an installed open_clip or CLIP package.

    Args:
        context_length, pad_to_multiple_of: see `Tokenizer`.

    Raises:
        UserError: when no such package is installed.
    """

    START, END = "<|startoftext|>", "<|endoftext|>"
    PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

    def __init__(self, *, context_length: int, pad_to_multiple_of: int = 1):
        merges = _clip_merges()
        letters = _byte_letters()
        tokens = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
        vocabulary = {token: number for number, token in enumerate([*tokens, self.START, self.END])}
        backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>"))
        backend.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(self.PIECES), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.Sequence(
            [decoders.ByteLevel(), decoders.Replace("</w>", " "), decoders.Strip(right=1)]
        )
        backend.add_special_tokens([self.START, self.END])
        backend.post_processor = processors.TemplateProcessing(
            single=f"{self.START} $A {self.END}",
            special_tokens=[(token, vocabulary[token]) for token in (self.START, self.END)],
        )
        super().__init__(
            backend,
            context_length=context_length,
            pad_to_multiple_of=pad_to_multiple_of,
            pad_token=self.END,
        )


def _encodings(backend: tokenizers.Tokenizer, captions: list[str]) -> list[tokenizers.Encoding]:
    """The tokens of each caption.

    Raises:
        UserError: when the tokenizer fails on one, as by a pattern that takes too many steps.
    """
    try:
        return backend.encode_batch_fast(captions)
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":  # of Rust
            raise UserError(f"The tokenizer cannot encode the captions: {error}") from None
        raise


def _on_bytes(model: Any) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    return backend


def _clip_merges() -> list[tuple[str, str]]:
    """The pairs that are joined, in order."""
    for package in ("open_clip", "clip"):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec is not None else []:
            path = Path(folder) / "bpe_simple_vocab_16e6.txt.gz"
            if path.is_file():
                lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
                # after a heading as many as fill the vocabulary beside 512 letters and 2 special tokens
                return [(a, b) for a, b in (line.split() for line in lines[1 : 1 + 49408 - 512 - 2])]
    raise UserError(
        "tokenizer=clip takes OpenAI's vocabulary from an installed package, and there is none: "
        "pip install open-clip-torch, or choose tokenizer=bpe"
    )


def _byte_letters() -> list[str]:
    """The letter that stands for each byte, in the vocabulary's order: printable bytes first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(others))]


TOKENIZER_FILES = ("tokenizer.json", "vocab*", "*.model", "*.tiktoken", "tekken.json")
"""What a Hugging Face folder keeps a vocabulary in, as patterns."""


class HFTokenizer(Tokenizer):
    """The tokenizer of a Hugging Face model.

    Args:
        name: a name on the hub, or a local folder with the tokenizer's files.
        context_length, pad_to_multiple_of: see `Tokenizer`.

    Raises:
        UserError: when it can neither be read nor downloaded; says where a local folder goes.
    """

    def __init__(self, *, name: str, context_length: int, pad_to_multiple_of: int = 1):
        from transformers import AutoTokenizer

        folder = Path(name).expanduser()
        # without files transformers makes an empty vocabulary up
        if folder.is_dir() and not any(any(folder.glob(files)) for files in TOKENIZER_FILES):
            raise SettingError(
                "name", name, "holds no tokenizer; save tokenizer.json and tokenizer_config.json into it"
            )
        try:
            loaded = AutoTokenizer.from_pretrained(
                os.path.expanduser(name), use_fast=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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
        super().__init__(
            backend,
            context_length=context_length,
            pad_to_multiple_of=pad_to_multiple_of,
            pad_token=pad_token,
        )


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
