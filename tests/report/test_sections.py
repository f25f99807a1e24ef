"""What a report says of few and of many groups."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from miniclip.report.controls import controls_of
from miniclip.report.groups import group_runs
from miniclip.report.runs import Collection, Run, read_collection
from miniclip.report.sections import Section, sections_of
from miniclip.runs import RunDirectory
from tests.conftest import health_of
from tests.report.conftest import run_of

pytest.importorskip("scipy", reason="needs the extra report")


def sections(folder: Path, runs: list[Run]) -> dict[str, Section]:
    groups, varied = group_runs(runs)
    controls = controls_of(groups, None)
    found = sections_of(Collection(runs, []), groups, varied, controls=controls, folder=folder)
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


def test_overrides_are_what_was_typed_but_for_seeds_and_names(tmp_path: Path) -> None:
    typed = [
        ["optimizer=adamw", "data.limit=64", "seed=0", "data.seed=1", "name=x", "+trainer.resume=auto"],
        ["optimizer=sam", "_arm.rho=0.1", "loss.a='it is'", "logger=wandb"],
        ["data.urls=https://me:hunter2@host/x"],  # which an old run may have kept
        [],
    ]
    runs = [replace(run_of(rho / 10, 0, 300), overrides=overrides) for rho, overrides in enumerate(typed)]
    assert sections(tmp_path, runs)["As overrides"].commands == [
        "optimizer=adamw data.limit=64",
        "optimizer=sam _arm.rho=0.1 'loss.a='\"'\"'it is'\"'\"''",
        "'data.urls=https://***@host/x'",
        "# nothing: all settings are the defaults",
    ]


def test_a_config_of_ones_own_is_named_before_the_overrides(tmp_path: Path) -> None:
    job = {"job": {"config_name": "mine"}}
    folder = {"runtime": {"config_sources": [{"path": "/my configs", "provider": "command-line"}]}}
    runs = []
    for number, hydra in enumerate((job | folder, {"job": {"config_name": "config"}})):
        run = replace(run_of(number / 10, 0, 300), path=tmp_path / str(number), overrides=["seed=0", "a=1"])
        (run.path / ".hydra").mkdir(parents=True)
        (run.path / ".hydra" / "hydra.yaml").write_text(json.dumps({"hydra": hydra}))
        runs.append(run)
    commands = sections(tmp_path, runs)["As overrides"].commands
    assert commands == ["--config-dir '/my configs' --config-name mine a=1", "a=1"]


def test_a_class_is_nothing_to_type(tmp_path: Path) -> None:
    """Where it is unknown what was typed; also of a setting that would be a line of its own."""
    settings = [
        {"optimizer._target_": "torch.optim.AdamW", "a": "x\ny"},
        {"optimizer._target_": "miniclip.optim.SAM", "a": "z"},
    ]
    runs = [replace(run_of(0, 0, 300), settings=own) for own in settings]
    commands = sections(tmp_path, runs)["As overrides"].commands
    assert all(line.startswith("# ") for command in commands for line in command.splitlines())
    assert any("optimizer._target_=torch.optim.AdamW" in command for command in commands)


def test_it_warns_of_one_seed_and_of_one_that_is_there_twice(tmp_path: Path) -> None:
    alone = sections(tmp_path, [run_of(0.0, 0, 300), run_of(0.1, 0, 310)])["Runs"].remarks
    assert any(remark.startswith("Warning: groups of one seed") for remark in alone)

    twice = sections(tmp_path, [run_of(0.0, seed, 300) for seed in (0, 0, 1)])["Runs"].remarks
    assert any(remark.startswith("Warning: a group holds a seed more than once") for remark in twice)

    good = sections(tmp_path, [run_of(0.0, seed, 300) for seed in (0, 1)])["Runs"].remarks
    assert not any(remark.startswith("Warning") for remark in good)


def test_it_warns_of_runs_that_skipped_many_steps(tmp_path: Path) -> None:
    runs = [replace(run_of(0.0, seed, 300), steps=20, skipped_steps=seed) for seed in range(4)]
    remarks = sections(tmp_path, runs)["Runs"].remarks
    (warning,) = (remark for remark in remarks if "skipped" in remark)
    assert warning == (
        "Warning: more than a tenth of the steps were skipped, their gradient not finite: 0.0-3 (3 of 20). "
        "Their numbers are of fewer steps than they were to train."
    )
    assert not any("skipped" in remark for remark in sections(tmp_path, runs[:3])["Runs"].remarks)

    many = [replace(run_of(0.0, seed, 300), steps=20, skipped_steps=9) for seed in range(7)]
    (warning,) = (text for text in sections(tmp_path, many)["Runs"].remarks if "skipped" in text)
    assert "0.0-4 (9 of 20) and 2 more. Their numbers" in warning


def test_the_best_is_no_run_whose_features_do_not_spread(tmp_path: Path) -> None:
    """Where there is another; such runs are named."""
    flat, sound = (run_of(0.0, seed, 380 - 80 * seed) for seed in (0, 1))
    flat = replace(flat, best={**flat.best, **health_of(rank=1.3)})
    remarks = sections(tmp_path, [flat, sound])["Runs"].remarks
    assert any("Best on validation: 0.0-1, seed 1, rsum 300.0" in text for text in remarks)
    (warning,) = (text for text in remarks if "do not spread" in text)
    assert warning.startswith("Warning:") and "0.0-0" in warning and "0.0-1" not in warning

    alone = sections(tmp_path, [flat])["Runs"].remarks
    assert any("Best on validation: 0.0-0" in text for text in alone)


def test_one_group_is_no_control(tmp_path: Path) -> None:
    """There is none to hold against it."""
    section = sections(tmp_path, [run_of(0.0, seed, 300) for seed in (0, 1)])["Runs"]
    assert section.table[0][-1] == "minutes"
    assert not any("control" in cell for row in section.table for cell in row)


def test_a_failure_tells_its_data(tmp_path: Path) -> None:
    """Of all settings theirs alone are not in the name of a job's folder."""
    for name, root in (("0_seed=0", "/photos/a"), ("1_seed=0", "/photos/b")):
        run = RunDirectory(tmp_path / name)
        run.write_job(key=root, overrides=["seed=0", f"data.root={root}"])
        run.write_status("failed", reason="x")
    failures = read_collection([tmp_path]).failures
    groups, varied = group_runs([run_of(0.0, 0, 300)])
    collection = Collection([run_of(0.0, 0, 300)], failures)
    found = sections_of(collection, groups, varied, controls=groups, folder=tmp_path)
    (table,) = (section.table for section in found if section.title == "Failures")
    assert table == [
        ["run", "status", "reason"],
        ["0_seed=0\ndata.root=/photos/a", "failed", "x"],
        ["1_seed=0\ndata.root=/photos/b", "failed", "x"],
    ]


def test_another_seed_of_the_data_is_another_seed(tmp_path: Path) -> None:
    first, second = (run_of(0.0, seed, 300) for seed in (0, 1))
    second.settings["seed"] = 0
    remarks = sections(tmp_path, [first, second])["Runs"].remarks
    assert not any(remark.startswith("Warning") for remark in remarks)


def test_it_warns_of_other_training_data(tmp_path: Path) -> None:
    def remarks(*trained: tuple[str, str]) -> list[str]:
        runs = []
        for seed, (root, fingerprint) in enumerate(trained):
            run = run_of(0.0, seed, 300)
            runs.append(replace(run, settings={**run.settings, "data.root": root}, trained_on=fingerprint))
        return [text for text in sections(tmp_path, runs)["Runs"].remarks if "trained on other" in text]

    (warning,) = remarks(("/clean", "a"), ("/noisy", "b"))
    assert "from /clean, /noisy." in warning
    assert remarks(("/here", "a"), ("/there", "a")) == []  # moved


def test_it_warns_of_data_edited_between_runs(tmp_path: Path) -> None:
    """Of the same settings, also where each group has data of its own."""

    def remarks(*trained: tuple[float, str, str | None]) -> list[str]:
        runs = []
        for number, (rho, root, fingerprint) in enumerate(trained):
            run = run_of(rho, number % 2, 300)
            settings = {**run.settings, "data.root": root, "data.seed": number % 2}
            path = Path(f"run{number}")
            runs.append(replace(run, path=path, settings=settings, trained_on=fingerprint))
        return [text for text in sections(tmp_path, runs)["Runs"].remarks if "same data.* settings" in text]

    (warning,) = remarks((0.0, "/here", "a"), (0.0, "/here", "b"))
    assert "(a: run0; b: run1)" in warning
    (warning,) = remarks((0.0, "/here", "a"), (0.0, "/here", "a"), (0.1, "/here", "b"), (0.1, "/here", "b"))
    assert "(a: run0, run1; b: run2, run3)" in warning
    assert remarks((0.0, "/here", "a"), (0.1, "/here", "a")) == []
    assert remarks((0.0, "/here", "a"), (0.1, "/there", "b")) == []
    assert remarks((0.0, "/here", "a"), (0.1, "/here", None)) == []  # unknown


def test_of_several_controls_the_one_in_use_is_named(tmp_path: Path) -> None:
    runs = []
    for noise in (0.0, 0.4):
        for run in (
            run_of(rho, seed, 300 - 100 * noise + 100 * rho) for rho in (0, 0.1) for seed in (0, 1)
        ):
            runs.append(replace(run, settings={**run.settings, "data.caption_noise": noise}))
    rows = sections(tmp_path, runs)["Runs"].table
    cells = {row[0]: row[-2].splitlines() for row in rows[1:]}
    assert cells["rho=0, caption_noise=0"] == cells["rho=0, caption_noise=0.4"] == ["control"]
    for noise in ("0", "0.4"):
        difference, *_, told = cells[f"rho=0.1, caption_noise={noise}"]
        assert (difference, told) == ("+10.0", f"of rho=0, caption_noise={noise}")


def test_the_time_is_that_of_the_whole_run(tmp_path: Path) -> None:
    """With its validations, of which the records of training know nothing."""
    runs = [replace(run_of(0.0, seed, 300), whole_seconds=90.0 + 60 * seed) for seed in (0, 1)]
    runs_section = sections(tmp_path, runs)["Runs"]
    header, row = runs_section.table
    assert row[header.index("minutes")] == "2.0"
    assert any("Times are those of whole runs, with validation" in text for text in runs_section.remarks)


def test_short_runs_are_told_in_seconds(tmp_path: Path) -> None:
    """Of a second and a half no minute would be left."""
    runs = [replace(run_of(rho, 0, 300), whole_seconds=1.46 + 600 * rho) for rho in (0.0, 1.0)]
    header, *rows = sections(tmp_path, runs)["Runs"].table
    assert [row[header.index("seconds")] for row in rows] == ["1.5", "601.5"]


def test_minutes_are_those_of_the_whole_run(tmp_path: Path) -> None:
    """The best validation came after one minute, the last that says so after four."""
    run = run_of(0.0, 0, 300)
    run.validations.append({**run.best, "val/rsum": 200.0, "train/seconds": 240.0, "step": 40})
    run.validations.append({"val/rsum": 100.0, "step": 50})
    header, row = sections(tmp_path, [run])["Runs"].table
    assert row[header.index("minutes")] == "4.0"
