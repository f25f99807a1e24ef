"""Which runs are one group, and what a group is called."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest

from miniclip.report.charts import draw_axis
from miniclip.report.groups import group_runs
from miniclip.report.page import write_report
from miniclip.report.runs import Collection
from miniclip.report.statistics import paired_interval
from tests.report.conftest import run_of

pytest.importorskip("scipy", reason="needs the extra report")


def test_runs_that_differ_in_seed_and_name_are_one_group() -> None:
    groups, varied = group_runs([run_of(rho, seed, 300) for rho in (0.1, 0, 0.05) for seed in (1, 0)])
    assert varied == ["optimizer.rho"]
    assert [group.settings["optimizer.rho"] for group in groups] == [0, 0.05, 0.1]
    assert [[run.seed for run in group.runs] for group in groups] == [[0, 1]] * 3
    assert groups[1].name == "rho=0.05"


def test_a_number_with_and_without_a_point_is_one_group() -> None:
    groups, _ = group_runs([run_of(0, 0, 300), run_of(0.0, 1, 301), run_of(0.1, 0, 310)])
    assert [(group.name, len(group.runs)) for group in groups] == [("rho=0", 2), ("rho=0.1", 1)]
    assert group_runs([run_of(1, 0, 300), run_of(1.0, 1, 300)])[1] == []
    lists = [replace(run_of(0, 0, 300), settings={"betas": [one, 0.5]}) for one in (1, 1.0)]
    assert group_runs(lists)[1] == []


def test_what_only_helps_a_study_or_a_launcher_makes_no_group(tmp_path: Path) -> None:
    """Neither an arm, whose settings stand elsewhere as well, nor which card a job had."""
    runs = []
    for rho in (0.0, 0.05, 0.1):
        for seed in (0, 1):
            run = run_of(rho, seed, 300 + 100 * rho)
            own = {"_arm.rho": rho, "trainer.device": f"cuda:{seed}"}
            runs.append(replace(run, settings={**run.settings, **own}))
    groups, varied = group_runs(runs)
    assert varied == ["optimizer.rho"] and [len(group.runs) for group in groups] == [2] * 3
    drawn = draw_axis(groups, "optimizer.rho", tmp_path / "axis.svg")
    assert drawn is not None and drawn.stat().st_size > 5_000


def test_a_group_is_named_by_what_tells_it_from_others_of_its_kind() -> None:
    sam = {"optimizer._target_": "miniclip.optim.SAM", "optimizer.base.lr": 5e-4, "optimizer.every": 1}
    kinds = [
        {**sam, "optimizer.rho": 0.05},
        {**sam, "optimizer.rho": 0.1},
        {"optimizer._target_": "torch.optim.AdamW", "optimizer.lr": 5e-4},
    ]
    groups, _ = group_runs([replace(run_of(0, 0, 300), settings=settings) for settings in kinds])
    names = sorted(group.name for group in groups)
    assert names == ["optimizer=AdamW", "optimizer=SAM, rho=0.05", "optimizer=SAM, rho=0.1"]


def test_numbers_that_differ_late_have_names_of_their_own() -> None:
    rates = (0.00012345678, 0.00012345679, 0.30000000000000004)
    groups, _ = group_runs([run_of(rate, 0, 300) for rate in rates])
    assert [group.name for group in groups] == ["rho=0.00012345678", "rho=0.00012345679", "rho=0.3"]


def test_a_setting_that_is_null_is_named(tmp_path: Path) -> None:
    runs = [replace(run_of(0, 0, 300), settings={"k": k, "seed": 0}) for k in (None, 4, 8, 16)]
    groups, varied = group_runs(runs)
    assert [group.name for group in groups] == ["k=4", "k=8", "k=16", "k=null"]
    assert varied == ["k"] and draw_axis(groups, "k", tmp_path / "axis.svg") is not None
    pages = write_report(Collection(runs, []), tmp_path, control="k=null")
    assert "k=null" in pages[1].read_text()


def test_runs_on_different_data_are_never_one_group_nor_paired(tmp_path: Path) -> None:
    here = run_of(0.1, 0, 300)
    there = replace(run_of(0.1, 1, 200, num_images=100), fingerprint="def")
    groups, varied = group_runs([here, there])
    assert varied == ["data"] and sorted(group.name for group in groups) == ["data=abc", "data=def"]
    assert all(math.isnan(bound) for bound in paired_interval(*groups))

    _, markdown, table = write_report(Collection([here, there], []), tmp_path, mixes=True)
    assert [row["data"] for row in csv.DictReader(table.read_text().splitlines())] == ["abc", "def"]
    headline = markdown.read_text().splitlines()[4]
    assert "2 different data" in headline and "data abc" in headline and "data def" in headline
