"""Cells of tables that people open elsewhere: no formula in a spreadsheet, no HTML in Markdown."""

import re

FORMULA = tuple("=+-@\t\r\n")
"""Beginnings of a formula in a spreadsheet."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
"""A text that a spreadsheet reads as a number, below zero perhaps, and not as a formula."""


def spreadsheet_cell(value: object) -> object:
    """A value that a spreadsheet takes for no formula."""
    if isinstance(value, int | float):
        return value
    # the apostrophe makes it text
    text = str(value)
    is_formula = text.lstrip(" ")[:1] in FORMULA and not NUMBER.fullmatch(text)
    return f"'{text}" if text and is_formula else value


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is: no tags, no links and no images of another place."""
    one_line = " ".join(text.splitlines())
    return one_line.replace("<", "&lt;").replace("](", "]\\(").replace("][", "]\\[")


def markdown_cell(text: str) -> str:
    """The same for a table, whose columns end at a |."""
    return markdown_text(text).replace("|", "\\|")
