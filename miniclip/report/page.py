"""The report: one HTML file that needs nothing else, and the same as Markdown and CSV."""

import base64
import csv
import html
import io
import math
import mimetypes
import shlex
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from miniclip.errors import UserError, as_override, counted
from miniclip.files import write_text
from miniclip.report.charts import draw_axis, draw_groups, draw_progress
from miniclip.report.runs import Collection, Group, as_text, check_comparable, group_runs
from miniclip.report.statistics import Comparison, compare, spread

METRICS = (
    ("i2t_r1", "i2t R@1"),
    ("i2t_r5", "i2t R@5"),
    ("i2t_r10", "i2t R@10"),
    ("t2i_r1", "t2i R@1"),
    ("t2i_r5", "t2i R@5"),
    ("t2i_r10", "t2i R@10"),
    ("rsum", "rsum"),
)

FORMULA = tuple("=+-@\t\r")
"""What a formula of a spreadsheet begins with."""

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


class Section(NamedTuple):
    """A part of the report.

    Attributes:
        remarks: paragraphs, warnings among them.
        table: header and rows, or none.
        pictures: files to show.
        commands: lines to paste into a shell.
    """

    title: str
    remarks: list[str]
    table: list[list[str]]
    pictures: list[Path]
    commands: Sequence[str] = ()


def write_report(
    collection: Collection, folder: Path, *, control: str | None = None, mixes: bool = False
) -> list[Path]:
    """Write `report.html`, `report.md` and `report.csv` into a folder.

    Args:
        collection: what to compare.
        control: "SETTING=VALUE" of the group the others are held against; None takes the one without a
            perturbation if there is one, else the first.
        mixes: accept runs measured on different data.

    Raises:
        UserError: when there is no finished run, runs do not compare, or no group is the control.
    """
    if not collection.runs:
        raise UserError(
            f"None of {counted(len(collection.failures), 'run')} has finished; there is nothing to compare."
        )
    if not mixes:
        check_comparable(collection.runs)
    groups, varied = group_runs(collection.runs)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        sections = _sections(collection, groups, varied, _control(groups, control), Path(place))
        write_text(folder / "report.html", _as_html(sections))
    write_text(folder / "report.md", _as_markdown(sections))
    write_text(folder / "report.csv", _as_csv(collection, varied))
    return [folder / f"report.{ending}" for ending in ("html", "md", "csv")]


def _control(groups: Sequence[Group], wanted: str | None) -> Group:
    if wanted is not None:
        key, _, value = wanted.partition("=")
        for group in groups:
            if key in group.settings and as_text(group.settings[key]) == value:
                return group
        known = {f"{k}={as_text(v)}" for group in groups for k, v in group.settings.items()}
        choices = ", ".join(map(shlex.quote, sorted(known)))
        raise UserError(f"--control {shlex.quote(wanted)} is none of the groups; they differ in: {choices}")
    for group in groups:
        if group.settings.get("optimizer.rho") == 0 or "AdamW" in str(
            group.settings.get("optimizer._target_")
        ):
            return group
    return groups[0]


def _sections(
    collection: Collection, groups: list[Group], varied: list[str], control: Group, place: Path
) -> list[Section]:
    best = max(collection.runs, key=lambda run: run.best["val/rsum"])
    kinds = list(dict.fromkeys(run.kind for run in collection.runs))
    remarks = [
        f"{counted(len(collection.runs), 'run')} in {counted(len(groups), 'group')}; {best.protocol}; "
        f"data {best.fingerprint}.",
        f"The numbers are: {'; '.join(kinds)}.",
        f"Best on validation: {best.path.name}, seed {best.seed}, rsum {best.rsum:.1f} ({best.protocol}).",
    ]
    if any(run.test is None for run in collection.runs):
        remarks.append(
            "A best of several validations is higher than a new sample would give; "
            "data.seeded_test_fraction sets a test part apart."
        )
    if any(len(group.runs) == 1 for group in groups):
        remarks.append("Warning: groups of one seed say nothing of the noise between seeds.")
    if any(len({run.seed for run in group.runs}) < len(group.runs) for group in groups):
        remarks.append("Warning: a group holds a seed more than once; its interval is too narrow.")
    sections = [
        Section(
            "Runs", remarks, _table_of_groups(groups, control), [draw_groups(groups, place / "groups.svg")]
        )
    ]
    axes = [draw_axis(groups, key, place / f"axis{n}.svg") for n, key in enumerate(varied)]
    drawn = [path for path in axes if path is not None]
    if drawn:
        sections.append(Section("Over each setting", [], [], drawn))
    costs = "SAM needs two forward passes per step: compare at equal cost, too."
    sections.append(Section("Curves", [costs], [], [draw_progress(groups, place / "curves.svg")]))
    if varied:
        header = ["setting", *(f"group {n}" for n in range(1, len(groups) + 1))]
        rows = [
            [key, *(as_text(group.settings[key]) if key in group.settings else "" for group in groups)]
            for key in varied
        ]
        sections.append(
            Section("Settings that differ", [], [header, *rows] if len(groups) <= 12 else [], [])
        )
        if len(groups) > 12:
            sections[-1].remarks.append(f"{', '.join(varied)}: see report.csv.")
        sections.append(
            Section("As overrides", ["A line for each group, in the same order."], [], [], _typed(groups))
        )
    if best.retrieval_figure is not None:
        sections.append(Section("The best run's retrieval", [], [], [best.retrieval_figure]))
    if collection.failures:
        table = [["run", "status", "reason"]]
        table += [[failure.path.name, failure.status, failure.reason] for failure in collection.failures]
        text = f"{counted(len(collection.failures), 'run')} without a result."
        sections.append(Section("Failures", [text], table, []))
    return sections


def _typed(groups: Sequence[Group]) -> list[str]:
    """The settings that tell each group apart, to be typed again; what its data are is none of them."""
    return [
        " ".join(as_override(key, value) for key, value in group.settings.items() if key != "data")
        for group in groups
    ]


def _table_of_groups(groups: Sequence[Group], control: Group) -> list[list[str]]:
    rows = [
        ["group", "seeds", *(title for _, title in METRICS), "minutes", "against the control", "verdict"]
    ]
    for group in groups:
        cells = [_with_spread(group.values(key)) for key, _ in METRICS]
        minutes = spread([value / 60 for value in group.values("train/seconds")]).mean
        beside = ("control", "") if group is control else _beside(compare(group, control))
        rows.append([group.name, str(len(group.runs)), *cells, f"{minutes:.1f}", *beside])
    return rows


def _with_spread(values: Sequence[float]) -> str:
    found = spread(values)
    if found.num_seeds == 1:
        return f"{found.mean:.1f}"
    return f"{found.mean:.1f} ± {found.deviation:.1f}\n({found.low:.1f} to {found.high:.1f})"


def _beside(found: Comparison) -> tuple[str, str]:
    interval = "" if math.isnan(found.low) else f"\n({found.low:+.1f} to {found.high:+.1f})"
    return f"{found.difference:+.1f}{interval}", found.remark


def _as_html(sections: Sequence[Section]) -> str:
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>MiniCLIP report</title>",
        "<meta name=viewport content='width=device-width, initial-scale=1'>",
        f"<style>{STYLE}</style><h1>MiniCLIP report</h1>",
    ]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        for remark in section.remarks:
            kind = " class=warning" if remark.startswith("Warning") else ""
            parts.append(f"<p{kind}>{html.escape(remark)}</p>")
        if section.table:
            header, *rows = section.table
            head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
            body = "".join(
                f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
            )
            parts.append(f"<div class=scroll><table><tr>{head}</tr>{body}</table></div>")
        if section.commands:
            shown = "\n".join(section.commands)
            parts.append(f"<pre>{html.escape(shown)}</pre>")
        parts += [
            f"<p><img alt='{html.escape(section.title)}' src='{_embedded(p)}'></p>"
            for p in section.pictures
        ]
    notes = (
        "Means ± standard deviation over seeds, in brackets the 95 % interval of the mean (Student's t). "
        "Against the control: difference of mean rsum, in brackets its 95 % interval over the evaluation "
        "images, drawn with replacement and the same for both."
    )
    return "\n".join([*parts, f"<p><small>{notes}</small></p></html>\n"])


def _embedded(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0]
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _as_markdown(sections: Sequence[Section]) -> str:
    lines = ["# MiniCLIP report", ""]
    for section in sections:
        if not section.remarks and not section.table:
            continue
        lines += [f"## {section.title}", "", *(f"{_plain(remark)}\n" for remark in section.remarks)]
        for number, row in enumerate(section.table):
            cells = (_plain(cell).replace("|", "\\|") for cell in row)
            lines.append(f"| {' | '.join(cells)} |")
            if number == 0:
                lines.append(f"|{'---|' * len(row)}")
        if section.commands:
            # four spaces begin a block that Markdown shows as it is
            lines.append(textwrap.indent("\n".join(section.commands), " " * 4))
        lines.append("")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: no tags, no links and no images of another place."""
    return text.replace("\n", " ").replace("<", "&lt;").replace("](", "]\\(").replace("][", "]\\[")


def _cell(value: object) -> object:
    """A value that a spreadsheet takes for no formula."""
    return f"'{value}" if str(value)[:1] in FORMULA and not isinstance(value, int | float) else value


def _as_csv(collection: Collection, varied: Sequence[str]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        [
            "run",
            "seed",
            *varied,
            *(title for _, title in METRICS),
            "validation rsum",
            "protocol",
            "measured",
            "steps",
            "forward_passes",
            "seconds",
        ]
    )
    for run in collection.runs:
        costs = [run.best.get(key, "") for key in ("step", "train/forward_passes", "train/seconds")]
        settings = [run.settings.get(key) for key in varied]
        metrics = [run.numbers[key] for key, _ in METRICS]
        measured = [run.best["val/rsum"], run.protocol, run.kind]
        cells = [run.path, run.seed, *settings, *metrics, *measured, *costs]
        writer.writerow(map(_cell, cells))
    return buffer.getvalue()
