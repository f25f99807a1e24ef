"""The report: one HTML file that needs nothing else, and its tables as Markdown and CSV."""

import tempfile
from pathlib import Path

from miniclip.errors import UserError, counted
from miniclip.files import write_text
from miniclip.report.controls import controls_of
from miniclip.report.formats import as_csv, as_html, as_markdown
from miniclip.report.groups import check_comparable, group_runs
from miniclip.report.runs import Collection
from miniclip.report.sections import sections_of


def write_report(
    collection: Collection, folder: Path, *, control: str | None = None, mixes: bool = False
) -> list[Path]:
    """Write `report.html`, `report.md` and `report.csv` into a folder.

    Args:
        collection: what to compare.
        control: "SETTING=VALUE" of the groups that others are held against; see `controls_of`.
        mixes: accept runs measured on different data.

    Raises:
        UserError: when there is no finished run, runs do not compare, or no group is the control.
    """
    if not collection.runs:
        raise UserError(_why_nothing(collection))
    if not mixes:
        check_comparable(collection.runs)

    groups, varied = group_runs(collection.runs)
    controls = controls_of(groups, control)

    page, markdown, table = (folder / f"report.{ending}" for ending in ("html", "md", "csv"))
    folder.mkdir(parents=True, exist_ok=True)
    # the figures go into the page, and are not needed beside it
    with tempfile.TemporaryDirectory() as figures:
        sections = sections_of(collection, groups, varied, controls=controls, folder=Path(figures))
        write_text(page, as_html(sections))

    write_text(markdown, as_markdown(sections))
    write_text(table, as_csv(collection.runs, varied))
    return [page, markdown, table]


def _why_nothing(collection: Collection) -> str:
    """Why there is nothing to compare, with the first reason."""
    failures = collection.failures
    first = failures[0]
    example = f"{first.path}: {first.status}{f' ({first.reason})' if first.reason else ''}"
    num_runs = counted(len(failures), "run")
    sentences = (
        f"None of {num_runs} has finished; there is nothing to compare. {example}",
        *collection.unstarted,
    )
    return " ".join(sentences)
