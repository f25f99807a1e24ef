"""Tokenizers: captions to token ids."""

from miniclip.tokenizers.base import Tokenizer
from miniclip.tokenizers.clip import CLIPTokenizer
from miniclip.tokenizers.huggingface import HFTokenizer
from miniclip.tokenizers.trained import BPETokenizer, UnigramTokenizer, WordPieceTokenizer

__all__ = [
    "BPETokenizer",
    "CLIPTokenizer",
    "HFTokenizer",
    "Tokenizer",
    "UnigramTokenizer",
    "WordPieceTokenizer",
]
