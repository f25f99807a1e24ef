"""Small trained tokenizers."""

from typing import Any

from miniclip.tokenizers import BPETokenizer, Tokenizer, UnigramTokenizer, WordPieceTokenizer

CAPTIONS = ["a dog runs across the grass", "two dogs run", "the grass is green"]

TRAINED = (BPETokenizer, UnigramTokenizer, WordPieceTokenizer)


def trained(context_length: int = 12, kind: type = BPETokenizer, **changes: Any) -> Tokenizer:
    tokenizer = kind(vocab_size=400, lowercase=True, context_length=context_length, **changes)
    tokenizer.fit(CAPTIONS)
    return tokenizer
