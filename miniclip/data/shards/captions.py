"""The captions of a sample and its class, out of the texts beside its image."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from miniclip.data.sources.caption_cells import captions_of_cell, checked_text
from miniclip.data.sources.class_names import class_of_cell
from miniclip.data.sources.columns import CAPTION_COLUMNS
from miniclip.data.sources.text_files import lines_of
from miniclip.errors import UserError

EVERY = "captions"
"""Field of a .json with all captions of an image, which counts for more than the .txt: that holds one."""


class CaptionReading(NamedTuple):
    """How captions are read.

    Attributes:
        column: field of the .json, `caption.en` the field en of objects in caption; None takes a field
            `captions`, else the .txt, else the first usual field.
        per_line: each line of a .txt is a caption; else all of it is one.
        class_column: field of the .json with the class; None takes the .cls.
    """

    column: str | None = None
    per_line: bool = False
    class_column: str | None = None

    def label_of(self, class_text: bytes | None, document: bytes | None) -> str:
        """The class in a .cls or a .json; "" where there is none.

        Raises:
            UserError: when what should hold it cannot be read; says why.
        """
        if self.class_column is not None:
            value = _field(_fields(document), self.class_column)
            return class_of_cell(value, f"the field {self.class_column}")
        return "" if class_text is None else _text(class_text, ".cls").strip()

    def captions(self, text: bytes | None, document: bytes | None, label: str = "") -> list[str]:
        """The captions in a .txt and a .json, those that are not empty; without any the class is one.

        Raises:
            UserError: when what should hold them cannot be read; says why.
        """
        if self.column is not None:
            return _listed(_field(_fields(document), self.column), f"the field {self.column}")
        if document is not None and f'"{EVERY}"'.encode() in document:
            fields = _fields(document)
            if EVERY in fields:
                return _listed(fields[EVERY], f"the field {EVERY}")

        if text is not None:
            return self._of_text(text)
        fields = _fields(document)
        usual = next((name for name in CAPTION_COLUMNS if name in fields), None)
        if usual is None and label:
            return [label.replace("_", " ")]
        if usual is None:
            raise UserError(f"its .json has no usual field for a caption; it has {_names(fields)}")
        return _listed(fields[usual], f"the field {usual}")

    def _of_text(self, content: bytes) -> list[str]:
        text = _text(content, ".txt")
        lines = lines_of(text) if self.per_line else [text]
        stripped = [checked_text(line.strip(), "the .txt") for line in lines]
        return [line for line in stripped if line]


def _text(content: bytes, ending: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"its {ending} is no UTF-8 at byte {error.start + 1}") from None


def _fields(document: bytes | None) -> Mapping[str, Any]:
    if document is None:
        return {}
    try:
        fields = json.loads(document)
    except (ValueError, RecursionError):
        raise UserError("its .json cannot be read") from None
    if not isinstance(fields, dict):
        raise UserError("its .json is no object")
    return fields


def _field(fields: Mapping[str, Any], path: str) -> Any:
    """The value of a field; `caption.en` is the field en of the object, or of each, in caption."""
    if path in fields:
        return fields[path]
    name, _, inner = path.partition(".")
    value = fields.get(name)
    if inner and isinstance(value, dict):
        return _field(value, inner)
    if inner and isinstance(value, list):
        return [_field(item, inner) for item in value if isinstance(item, dict)]
    raise UserError(f"its .json has no field {path}; it has {_names(fields)}")


def _listed(value: Any, where: str) -> list[str]:
    return [caption for caption in captions_of_cell(value, where) if caption]


def _names(fields: Mapping[str, Any]) -> str:
    return ", ".join(fields) or "none"
