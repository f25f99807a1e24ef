"""Text in HTML, Markdown and CSV: typed again as it was, and no formula, tag or link."""

import csv
import html
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from miniclip.errors import UserError
from miniclip.report.groups import group_runs
from miniclip.report.page import write_report
from miniclip.report.runs import Collection, read_collection
from tests.report.conftest import foreign_run, run_of

pytest.importorskip("scipy", reason="needs the extra report")


def test_what_the_report_prints_can_be_typed_again(tmp_path: Path) -> None:
    texts = ["it's $HOME", "a b|c", ["0.9", 0.98], None]
    runs = [replace(run_of(0, 0, 300), settings={"loss.a": text}) for text in texts]
    groups, _ = group_runs(runs)
    page, markdown, _ = write_report(Collection(runs, []), tmp_path)
    (block,) = re.findall(r"(?s)<pre>(.*?)</pre>", page.read_text())
    printed = [
        html.unescape(block).splitlines(),
        [line[4:] for line in markdown.read_text().splitlines() if line.startswith(" " * 4)],
    ]
    for lines in printed:
        words = [shlex.split(line) for line in lines]
        typed = [OverridesParser.create().parse_override(word).value() for (word,) in words]
        assert typed == [group.settings["loss.a"] for group in groups]

    with pytest.raises(UserError) as caught:
        write_report(Collection(runs, []), tmp_path, control="a b")
    assert "--control 'a b' is" in str(caught.value)
    assert shlex.quote("loss.a=a b|c") in str(caught.value)


def test_settings_are_no_formulas_no_tags_and_no_links(tmp_path: Path) -> None:
    names = (
        '=HYPERLINK("http://x","y")',
        "@SUM(1)",
        "+1",
        "-1",
        "<script>alert(1)</script>",
        "![a](http://x)",
    )
    for number, name in enumerate(names):
        foreign_run(tmp_path / "runs" / str(number), name=name)
    page, markdown, table = write_report(read_collection([tmp_path / "runs"]), tmp_path / "out")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["optimizer.kind"] for row in rows[:4]] == [f"'{name}" for name in names[:4]]
    for file in (page, markdown):
        assert "<script" not in re.sub(r"(?m)^ {4}.*", "", file.read_text())
    assert "](http" not in re.sub(r"(?m)^ {4}.*", "", markdown.read_text())  # but for blocks of code
