"""Tokenizers: captions to token ids."""

from miniclip.tokenizers.tokenizer import (
    BPETokenizer,
    CLIPTokenizer,
    HFTokenizer,
    Tokenizer,
    UnigramTokenizer,
    WordPieceTokenizer,
)

__all__ = [
    "BPETokenizer",
    "CLIPTokenizer",
    "HFTokenizer",
    "Tokenizer",
    "UnigramTokenizer",
    "WordPieceTokenizer",
]
