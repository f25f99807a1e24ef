"""OpenAI's tokenizer of CLIP."""

import gzip
import importlib.util
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from miniclip.errors import UserError
from miniclip.tokenizers.base import Tokenizer

MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"

NUM_MERGES = 49_408 - 512 - 2
"""As many as fill the vocabulary beside 512 letters and 2 special tokens."""


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
        merges = _merges()
        letters = _byte_letters()
        final_letters = [f"{letter}</w>" for letter in letters]
        tokens = [*letters, *final_letters, *map("".join, merges), self.START, self.END]
        vocabulary = {token: number for number, token in enumerate(tokens)}

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


def _merges() -> list[tuple[str, str]]:
    """The pairs that are joined, in order.

    Raises:
        UserError: when no installed package holds them.
    """
    for package in ("open_clip", "clip"):
        path = _merges_file(package)
        if path is not None:
            _heading, *lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
            pairs = [line.split() for line in lines[:NUM_MERGES]]
            return [(first, second) for first, second in pairs]
    raise UserError(
        "tokenizer=clip takes OpenAI's vocabulary from an installed package, and there is none: "
        "pip install open-clip-torch, or choose tokenizer=bpe"
    )


def _merges_file(package: str) -> Path | None:
    """The file of merges in a package, which is not imported; None where there is none."""
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    paths = [Path(folder) / MERGES_FILE for folder in folders]
    return next((path for path in paths if path.is_file()), None)


def _byte_letters() -> list[str]:
    """The letter that stands for each byte, in the vocabulary's order: printable bytes first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
