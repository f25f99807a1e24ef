"""What a report says of few and of many groups."""

from pathlib import Path

import pytest

from miniclip.report.groups import group_runs
from miniclip.report.runs import Collection, Run
from miniclip.report.sections import Section, sections_of
from tests.report.conftest import run_of

pytest.importorskip("scipy", reason="needs the extra report")


def sections(folder: Path, runs: list[Run]) -> dict[str, Section]:
    groups, varied = group_runs(runs)
    found = sections_of(Collection(runs, []), groups, varied, control=groups[0], folder=folder)
    return {section.title: section for section in found}


def test_few_groups_stand_side_by_side_and_many_in_the_table(tmp_path: Path) -> None:
    few = sections(tmp_path, [run_of(rho, seed, 300) for rho in (0.0, 0.1) for seed in (0, 1)])
    assert few["Settings that differ"].table == [
        ["setting", "group 1", "group 2"],
        ["optimizer.rho", "0.0", "0.1"],
    ]
    assert few["As overrides"].commands == ["optimizer.rho=0.0", "optimizer.rho=0.1"]
    assert "Over each setting" not in few  # two numbers are no line

    many = sections(tmp_path, [run_of(number / 100, 0, 300) for number in range(13)])
    assert many["Settings that differ"].table == []
    assert many["Settings that differ"].remarks == ["optimizer.rho: see report.csv."]
    assert len(many["As overrides"].commands) == 13
    assert len(many["Over each setting"].figures) == 1


def test_it_warns_of_one_seed_and_of_one_that_is_there_twice(tmp_path: Path) -> None:
    alone = sections(tmp_path, [run_of(0.0, 0, 300), run_of(0.1, 0, 310)])["Runs"].remarks
    assert any(remark.startswith("Warning: groups of one seed") for remark in alone)

    twice = sections(tmp_path, [run_of(0.0, seed, 300) for seed in (0, 0, 1)])["Runs"].remarks
    assert any(remark.startswith("Warning: a group holds a seed more than once") for remark in twice)

    good = sections(tmp_path, [run_of(0.0, seed, 300) for seed in (0, 1)])["Runs"].remarks
    assert not any(remark.startswith("Warning") for remark in good)
