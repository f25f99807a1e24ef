"""The classes of images in shards, by the names that a file gives to their numbers."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from miniclip.data.text_arrays import StringArray, StringListArray
from miniclip.errors import SettingError, UserError, counted

log = logging.getLogger(__name__)


def labels_of(part: str, labels: Iterable[str]) -> StringArray | None:
    """The classes of a part's images; None, and a warning if some have one, where not all have."""
    labels = StringArray.of(labels)
    num_labeled = int((labels.ends > labels.starts).sum())
    if num_labeled == len(labels):
        return labels
    if num_labeled:
        total = counted(len(labels), "image")
        log.warning(
            "%s: %d of %s have a class, so that none is taken to have one.", part, num_labeled, total
        )
    return None


def read_class_names(path: Path) -> list[str]:
    """The lines of a text file; line n, from 0, is the name of class n.

    Raises:
        SettingError: when it is no text.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError("class_names", path, f"cannot be read ({error})") from None


def named(
    labels: Sequence[str], captions: StringListArray, names: Sequence[str]
) -> tuple[list[str], Iterable[list[str]]]:
    """Names in place of numbers, of classes and of captions that are the class alone.

    Raises:
        UserError: when a class is no number, or has no name.
    """
    name_of = {label: _name(label, names) for label in set(labels) - {""}} | {"": ""}
    return [name_of[label] for label in labels], [
        [name_of[label]] if list(own) == [label] else list(own)
        for label, own in zip(labels, captions, strict=True)
    ]


def _name(label: str, names: Sequence[str]) -> str:
    if label.isdecimal() and int(label) < len(names) and names[int(label)]:
        return names[int(label)]
    text = f"data.class_names: a file of {counted(len(names), 'line')} has no name for the class {label!r}."
    raise UserError(f"{text} Line n, from 0, names the class n.")
