"""The classes of images in shards, by the names that a file gives to their numbers."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from miniclip.data.text_arrays import StringListArray
from miniclip.errors import SettingError, UserError, counted


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
