"""Cells of tables that people open elsewhere: no formula in a spreadsheet, no HTML in Markdown."""

from miniclip.errors import visible

FORMULA = tuple("=+-@\t\r\n")
"""Beginnings of a formula in a spreadsheet."""


def spreadsheet_cell(value: object) -> object:
    """A value that is no formula in a spreadsheet and no command in a terminal; numbers stay numbers."""
    if isinstance(value, int | float):
        return value
    if value is None:
        return value

    # a carriage return ends a row for some readers, and is quoted by no writer
    text = visible(str(value).replace("\r", "\n"))
    # the apostrophe makes it text
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is: no tags, no links and no images of another place."""
    one_line = visible(" ".join(text.splitlines()))
    return one_line.replace("<", "&lt;").replace("](", "]\\(").replace("][", "]\\[")


def markdown_cell(text: str) -> str:
    """The same for a table, whose columns end at a |."""
    return markdown_text(text).replace("|", "\\|")
