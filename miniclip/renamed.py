"""Former names of settings, which are accepted for one version with a line that names the new one."""

import logging
from collections.abc import Sequence

log = logging.getLogger(__name__)

KEYS = {
    "eval.shots": "eval.tasks.few_shot.shots",
    "eval.num_seeds": "eval.tasks.few_shot.num_seeds",
    "eval.radii": "eval.tasks.sharpness.radii",
    "eval.batches": "eval.tasks.sharpness.num_batches",
    "eval.batch_size": "eval.tasks.sharpness.batch_size",
    "eval.templates": "eval.tasks.zero_shot.templates",
    "eval.class_names": "eval.tasks.zero_shot.class_names",
}
"""Former keys and what they are called now."""


def renamed_words(words: Sequence[str]) -> list[str]:
    """What a user typed, former names replaced, each with a warning."""
    return [_renamed_word(word) for word in words]


def _renamed_word(word: str) -> str:
    key, equals, value = word.partition("=")
    new = word
    if key == "eval.tasks" and value == "null":
        new = "eval=standard"
    elif key == "eval.tasks" and equals and not value.startswith("{"):
        new = f"eval/tasks={value}"
    elif key in KEYS and equals:
        new = f"{KEYS[key]}={value}"
    if new != word:
        log.warning("%s is now typed %s", word, new)
    return new
