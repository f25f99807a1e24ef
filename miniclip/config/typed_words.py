"""Words as they are typed: text that Hydra's grammar cannot read is quoted for it, or told how to be."""

import re
from collections.abc import Sequence

from miniclip.config.hints import is_named
from miniclip.config.hydra_internals import is_readable
from miniclip.errors import as_override, for_hydra

STRUCTURE = re.compile(r"^=|[,\[\]{}'\"]|\$\{")
"""Signs of a list, a mapping, quoted text, several values, what is looked up, or a slip (`name==b`)."""


def as_hydra_reads(words: Sequence[str]) -> list[str]:
    """What was typed, where a value that can only be text is quoted: `name="größe"`, `data.root="/a=b"`.

    Args:
        words: overrides and flags; all that Hydra can read stays as it is.
    """
    return [_quoted(word) for word in words]


def _quoted(word: str) -> str:
    key, equals, value = word.partition("=")
    if not equals or word.startswith("-") or STRUCTURE.search(value) or is_readable(word):
        return word

    as_text = for_hydra(key, value)
    return as_text if is_readable(as_text) else word


def unreadable(word: str) -> str:
    """What is told of a word that Hydra's grammar cannot read, with what to type instead."""
    key, equals, value = word.partition("=")
    if not is_readable(f"{key}=0"):
        return f"{word}: {key} is no name of a setting.{is_named(key)}"
    if not equals:
        return f"{word}: is no setting; type {key}=VALUE"

    if value.startswith(("[", "{")):
        return f"{word}: is no whole list or mapping; quote each text in it, as in '{key}=[\"a b\"]'"
    # ${...} is still looked up
    as_text = as_override(key, value).replace(r"\${", "${")
    return f"{word}: cannot be read; type text in quotes: {as_text}"
