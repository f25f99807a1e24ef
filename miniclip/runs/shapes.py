"""Shapes of plain data, which what is read from a file is held against.

A shape is a type or several (`NUMBER`), a list of one shape (`[str]`), or an object: its keys and their
shapes. "key?" may be missing, and "val/*" stands for every key that begins so.
"""

import math
from typing import Any

MOST_LEVELS = 40
"""How deep an object may hold others."""

Shape = Any
"""See above; there is no recursive type of types, lists and dictionaries that mypy would follow."""

TEXT: Shape = str
COUNT: Shape = int
NUMBER: Shape = (int, float)
NUMBER_OR_NULL: Shape = (int, float, type(None))
OBJECT: Shape = {}

NAMES = {
    dict: "an object",
    list: "a list",
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
"""Kinds of plain data as JSON has them, as they are told."""


class Misshapen(ValueError):
    """A value has not the shape that it should have."""


def check_shape(value: object, shape: Shape, place: str = "") -> None:
    """Hold plain data against a shape.

    Raises:
        ValueError: names the place, what is there and what should be.
    """
    _check_plain(value, place)
    _check(value, shape, place)


def _check_plain(value: object, place: str, level: int = 0) -> None:
    """Refuse what is no plain data, letters that no file can hold, and depths without an end."""
    if level > MOST_LEVELS:
        raise Misshapen("it is nested too deeply")

    if isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, dict):
        for key, below in value.items():
            if not isinstance(key, str | int):
                raise Misshapen(f"{place or 'it'} has a key that is no text: {key!r}")
            _check_plain(str(key), place)
            _check_plain(below, _inside(place, key), level + 1)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _check_plain(item, f"{place}[{number}]", level + 1)
    elif type(value) not in NAMES:
        raise Misshapen(f"{place or 'it'} is a {type(value).__name__}, which is no plain data")


def _check(value: Any, shape: Shape, place: str) -> None:
    if isinstance(shape, dict):
        _check_kind(value, (dict,), place)
        _check_object(value, shape, place)
    elif isinstance(shape, list):
        _check_kind(value, (list,), place)
        for number, item in enumerate(value):
            _check(item, shape[0], f"{place}[{number}]")
    else:
        _check_kind(value, shape if isinstance(shape, tuple) else (shape,), place)


def _check_object(value: dict[str, Any], shape: dict[str, Shape], place: str) -> None:
    for key, below in shape.items():
        name = key.rstrip("?*")
        if key.endswith("*"):
            found = [known for known in value if known.startswith(name)]
        else:
            found = [name] if name in value else []
            if key == name and not found:
                raise Misshapen(f"{_inside(place, name)} is missing")

        for known in found:
            _check(value[known], below, _inside(place, known))


def _check_kind(value: object, kinds: tuple[type, ...], place: str) -> None:
    if type(value) not in kinds:
        allowed = " or ".join(dict.fromkeys(NAMES[kind] for kind in kinds))
        raise Misshapen(f"{place or 'it'} is {NAMES[type(value)]}, not {allowed}")
    if isinstance(value, int | float) and not _is_finite(value):
        raise Misshapen(f"{place or 'it'} is no finite number")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _inside(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)
