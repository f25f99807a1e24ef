"""Trained tokenizers out of a tokenizer.json, which may be a stranger's; without torch."""

import json
import math
from collections.abc import Iterator
from typing import Any

import tokenizers

from miniclip.errors import UserError, first_line

MOST_GROWTH = 1_000
"""Letters that a letter of a caption may become by replacements; those of known tokenizers make ten."""

MOST_PARTS = 200
"""Normalizers, decoders and pieces of templates; known tokenizers have twenty."""


def tokenizer_of(text: str) -> tokenizers.Tokenizer:
    """The tokenizer of a tokenizer.json's text.

    Raises:
        UserError: when it is damaged, or would make endless texts of short captions.
    """
    try:
        _check_growth(json.loads(text))
        return tokenizers.Tokenizer.from_str(text)
    except UserError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or is_panic(error):
            reason = first_line(error)
            raise UserError(f"tokenizer.json is damaged ({reason[:200]})") from None
        raise


def set_up(backend: tokenizers.Tokenizer, *, context_length: int | None) -> None:
    """Have a tokenizer read captions as text alone, also where one holds a special token's name.

    Args:
        context_length: the most tokens that it gives; None for all.
    """
    backend.encode_special_tokens = True  # no file and no copy keeps it
    backend.no_padding()
    if context_length is None:
        backend.no_truncation()
    else:
        backend.enable_truncation(context_length)


def encoded(backend: tokenizers.Tokenizer, captions: list[str]) -> list[tokenizers.Encoding]:
    """The tokens of each caption.

    Raises:
        UserError: when one is no text, or the tokenizer fails on it, as by a pattern of too many steps.
    """
    for caption in captions:
        _check_text(caption)
    try:
        return backend.encode_batch_fast(captions)
    except BaseException as error:
        if isinstance(error, Exception) or is_panic(error):
            raise UserError(f"The tokenizer cannot encode the captions: {error}") from None
        raise


def _check_text(caption: object) -> None:
    """Stop at what is no text: of a pair, a tokenizer makes one caption in silence.

    Raises:
        UserError: shows it.
    """
    if not isinstance(caption, str):
        raise UserError(f"A caption is a text, not {type(caption).__name__}: {caption!a:.80}")
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"The caption {caption!a:.80} is no text: its letter {error.start + 1} is half a character, as "
            "of bytes that are no UTF-8. Replace it."
        ) from None


def is_panic(error: BaseException) -> bool:
    """Whether the code in Rust has given up, which is no Exception."""
    return type(error).__name__ == "PanicException"


def _check_growth(content: Any) -> None:
    """Refuse a tokenizer that makes a short text endless.

    Raises:
        UserError: when its replacements multiply, or its parts are too many.
    """
    if not isinstance(content, dict):
        raise UserError("tokenizer.json holds no tokenizer")

    # the vocabulary is long, and nothing in it multiplies
    parts = [part for name, part in content.items() if name not in ("model", "added_tokens")]
    nodes = list(_nodes(parts))
    growth = math.prod(1 + len(str(node.get("content"))) for node in nodes if node.get("type") == "Replace")
    if growth > MOST_GROWTH or len(nodes) > MOST_PARTS:
        raise UserError("tokenizer.json makes endless texts of short ones")


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """All objects in a JSON value, but for the special tokens of a template."""
    if isinstance(value, list):
        for item in value:
            yield from _nodes(item)
    elif isinstance(value, dict):
        yield value
        for name, item in value.items():
            if name != "special_tokens":
                yield from _nodes(item)
