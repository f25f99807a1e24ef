"""Tokenizers of Hugging Face models."""

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from miniclip.errors import SettingError, UserError, first_line
from miniclip.files import located
from miniclip.tokenizers.base import END, PAD, Tokenizer

TOKENIZER_FILES = ("tokenizer.json", "vocab*", "*.model", "*.tiktoken", "tekken.json")
"""What a Hugging Face folder keeps a vocabulary in, as patterns."""


class HFTokenizer(Tokenizer):
    """The tokenizer of a Hugging Face model.

    Args:
        name: a name on the hub, a local folder with the tokenizer's files, or `package:NAME/FOLDER`, a
            folder inside an installed package.
        context_length, pad_to_multiple_of: see `Tokenizer`.

    Raises:
        UserError: when it can neither be read nor downloaded; says where a local folder goes.
    """

    def __init__(self, *, name: str, context_length: int, pad_to_multiple_of: int = 1):
        loaded = _loaded(name)
        backend = tokenizers.Tokenizer.from_str(loaded.backend_tokenizer.to_str())

        # GPT-2 has no padding, and its model no row for one more token: the mask hides which one it is
        pad_token = loaded.pad_token or loaded.eos_token
        if pad_token is None:
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


def _loaded(name: str) -> Any:
    """A fast tokenizer of transformers.

    Raises:
        UserError: see `HFTokenizer`.
    """
    from transformers import AutoTokenizer

    source = located(name)
    folder = Path(source)
    # without files transformers makes an empty vocabulary up
    if folder.is_dir() and not any(any(folder.glob(files)) for files in TOKENIZER_FILES):
        allowed = "holds no tokenizer; save tokenizer.json and tokenizer_config.json into it"
        raise SettingError("name", name, allowed)

    try:
        loaded = AutoTokenizer.from_pretrained(source, use_fast=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = first_line(error)
        raise UserError(
            f"tokenizer.name={name} cannot be loaded ({reason}). Without network, save the "
            "tokenizer's files (tokenizer.json, tokenizer_config.json) into a folder and give "
            "its path: tokenizer=hf tokenizer.name=FOLDER"
        ) from None
    if not loaded.is_fast:
        raise SettingError("name", name, "has no fast version (tokenizer.json); choose another")
    return loaded


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
