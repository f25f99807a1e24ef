"""The formats of a report: an HTML file that needs nothing else, Markdown, a table for spreadsheets."""

import base64
import csv
import html
import io
import mimetypes
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from miniclip.metrics import recall_titles
from miniclip.report.groups import value_of
from miniclip.report.runs import Run
from miniclip.report.sections import Section
from miniclip.table_cells import markdown_cell, markdown_text, spreadsheet_cell

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; margin: .5rem 0 }
th, td { padding: .25rem .5rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top }
th { background: #f4f4f4; position: sticky; top: 0 }
td { white-space: pre }
td:last-child { white-space: pre-line }
pre { overflow: auto }
th:first-child, td:first-child { text-align: left; white-space: normal }
img { max-width: 100%; height: auto }
.scroll { overflow: auto; max-height: 40rem }
.warning { border-left: 4px solid #D55E00; padding: .2rem .8rem; background: #fdf3ec }
@media print { .scroll { max-height: none; overflow: visible } h2 { break-after: avoid } }
"""

NOTES = (
    "Means ± standard deviation over seeds, in brackets the 95 % interval of the mean (Student's t). "
    "Against the control: difference of mean rsum, in brackets its 95 % interval over the evaluation "
    "images, drawn with replacement and the same for both."
)


def as_html(sections: Sequence[Section]) -> str:
    """A page with its style and all its figures inside."""
    lines = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>MiniCLIP report</title>",
        "<meta name=viewport content='width=device-width, initial-scale=1'>",
        f"<style>{STYLE}</style><h1>MiniCLIP report</h1>",
    ]
    for section in sections:
        lines += _section_as_html(section)

    lines.append(f"<p><small>{NOTES}</small></p></html>\n")
    return "\n".join(lines)


def as_markdown(sections: Sequence[Section]) -> str:
    """The sections that have words in them, without their figures."""
    lines = ["# MiniCLIP report", ""]
    for section in sections:
        if not section.remarks and not section.table:
            continue

        lines += [f"## {markdown_text(section.title)}", ""]
        lines += [f"{markdown_text(remark)}\n" for remark in section.remarks]
        lines += _table_as_markdown(section.table)
        if section.commands:
            # four spaces begin a block that Markdown shows as it is
            typed = [line for command in section.commands for line in command.splitlines()]
            lines.append(textwrap.indent("\n".join(typed), " " * 4))
        lines.append("")
    return "\n".join(lines)


def as_csv(runs: Iterable[Run], varied: Sequence[str]) -> str:
    """A row for each run: its settings that vary, what it reached, its cost by then and as a whole."""
    titles = {**recall_titles(), "rsum": "rsum"}
    header = [
        "run",
        "seed",
        *varied,
        *titles.values(),
        "validation rsum",
        "protocol",
        "measured",
        "best_step",
        "best_forward_passes",
        "best_train_seconds",
        "steps",
        "seconds",
    ]

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(spreadsheet_cell, header))
    for run in runs:
        row = [
            run.path,
            run.seed,
            *(value_of(run, setting) for setting in varied),
            *(run.numbers[metric] for metric in titles),
            run.best["val/rsum"],
            run.protocol,
            run.kind,
            run.best.get("step", ""),
            run.best.get("train/forward_passes", ""),
            run.best.get("train/seconds", ""),
            run.steps or "",
            "" if run.whole_seconds is None else run.whole_seconds,
        ]
        writer.writerow(map(spreadsheet_cell, row))
    return buffer.getvalue()


def _section_as_html(section: Section) -> list[str]:
    title = html.escape(section.title)
    lines = [f"<h2>{title}</h2>"]

    for remark in section.remarks:
        kind = " class=warning" if remark.startswith("Warning") else ""
        lines.append(f"<p{kind}>{html.escape(remark)}</p>")

    if section.table:
        lines.append(_table_as_html(section.table))

    if section.commands:
        typed = "\n".join(section.commands)
        lines.append(f"<pre>{html.escape(typed)}</pre>")

    for figure in section.figures:
        lines.append(f"<p><img alt='{title}' src='{_embedded(figure)}'></p>")
    return lines


def _table_as_html(table: Sequence[Sequence[str]]) -> str:
    header, *rows = table
    head = _row_as_html(header, "th")
    body = "".join(_row_as_html(row, "td") for row in rows)
    return f"<div class=scroll><table>{head}{body}</table></div>"


def _row_as_html(row: Sequence[str], tag: str) -> str:
    cells = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
    return f"<tr>{cells}</tr>"


def _embedded(path: Path) -> str:
    """A file as an address that holds its content."""
    # inside of the page, which can then be sent and moved alone
    kind = mimetypes.guess_type(path.name)[0]
    content = base64.b64encode(path.read_bytes()).decode()
    return f"data:{kind};base64,{content}"


def _table_as_markdown(table: Sequence[Sequence[str]]) -> list[str]:
    lines = []
    for number, row in enumerate(table):
        cells = [markdown_cell(cell) for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
        if number == 0:
            lines.append(f"|{'---|' * len(row)}")
    return lines
