"""Runs as they are found: finished, killed, tried again, damaged, and with links that lead out."""

import base64
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from miniclip.errors import UserError
from miniclip.report.page import write_report
from miniclip.report.runs import read_collection
from miniclip.runs import RunDirectory
from miniclip.runs.sweep import Sweep
from tests.report.conftest import foreign_run

pytest.importorskip("scipy", reason="needs the extra report")


def test_a_run_whose_process_is_gone_was_killed(tmp_path: Path) -> None:
    run = foreign_run(tmp_path / "sweep" / "0_run")
    (run / "summary.json").unlink()
    (run / "status.json").write_text('{"status": "running"}')
    for holding, status in ((nullcontext(), "killed"), (RunDirectory(run).lock(), "running")):
        with holding:
            (failure,) = read_collection([tmp_path]).failures
            assert (failure.path, failure.status) == (run, status)


def test_of_several_tries_of_a_job_the_finished_one_counts(tmp_path: Path) -> None:
    for name in ("0_run", "3_run"):
        RunDirectory(foreign_run(tmp_path / name)).write_job(key="a", overrides=[])
    (tmp_path / "3_run" / "status.json").write_text('{"status": "failed", "reason": "x"}')
    collection = read_collection([tmp_path])
    assert [run.path.name for run in collection.runs] == ["0_run"] and not collection.failures

    RunDirectory(tmp_path / "3_run").write_job(key="another", overrides=[])
    assert [failure.path.name for failure in read_collection([tmp_path]).failures] == ["3_run"]


def test_a_run_that_has_gone_on_in_another_directory_is_no_failure(tmp_path: Path) -> None:
    """Unless that one has come to nothing, too."""
    for name in ("first", "second"):
        (foreign_run(tmp_path / name) / "status.json").write_text('{"status": "interrupted"}')
    (tmp_path / "first" / "continued_in").write_text("../second\n")
    (tmp_path / "second" / "continued_in").write_text("../third\n")
    last = foreign_run(tmp_path / "third")
    assert not read_collection([tmp_path]).failures

    (last / "status.json").write_text('{"status": "failed"}')
    assert len(read_collection([tmp_path]).failures) == 3


@pytest.mark.parametrize("deeper", [False, True])
def test_it_tells_of_jobs_that_have_not_started(deeper: bool, tmp_path: Path) -> None:
    """In the terminal before there is a page, also where nothing has finished."""
    sweep = tmp_path / "outputs" / "sweep"
    Sweep(sweep).claim(list("abcdefgh"))
    for number, key in enumerate("abc"):
        run = foreign_run(sweep / f"{number}_run", name=key)
        RunDirectory(run).write_job(key=key, overrides=[])
    (sweep / "2_run" / "status.json").write_text('{"status": "interrupted"}')
    collection = read_collection([sweep.parent if deeper else sweep, sweep])
    told = f"5 of 8 jobs of {sweep} have not started."
    assert collection.unstarted == [told]

    page, markdown, _ = write_report(collection, tmp_path / "out")
    assert f"<p class=warning>Warning: {told}</p>" in page.read_text()
    assert f"Warning: {told}" in markdown.read_text().replace("\\", "")

    for number in range(2):
        (sweep / f"{number}_run" / "status.json").write_text('{"status": "interrupted"}')
    with pytest.raises(UserError, match=r"None of 3 runs has finished.* 5 of 8 jobs"):
        write_report(read_collection([sweep]), tmp_path / "out")
    assert read_collection([sweep / "0_run"]).unstarted == []


@pytest.mark.parametrize(
    "name", ["figures/retrieval.png", "figures", "config.yaml", "metrics.jsonl", "status.json", "ranks.npz"]
)
def test_a_report_shows_nothing_of_another_folder(name: str, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    (private / "retrieval.png").write_bytes(b"of another folder")
    foreign_run(tmp_path / "runs" / "good", name="good", rsum=90)
    link = foreign_run(tmp_path / "runs" / "bad", name="bad") / name
    shutil.rmtree(link, ignore_errors=True)
    link.unlink(missing_ok=True)
    link.symlink_to(private if name == "figures" else private / "retrieval.png")
    page, *_ = write_report(read_collection([tmp_path / "runs"]), tmp_path / "out")
    text = page.read_text()
    assert base64.b64encode(b"of another folder").decode() not in text
    assert "1 run without a result" in text and "bad" in text


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff", None])
@pytest.mark.parametrize(
    "name", ["summary.json", "metrics.jsonl", "config.yaml", "environment.json", "status.json"]
)
def test_one_damaged_run_hides_no_other(name: str, damage: bytes | None, tmp_path: Path) -> None:
    foreign_run(tmp_path / "runs" / "good", name="good")
    file = foreign_run(tmp_path / "runs" / "bad", name="bad") / name
    if damage is None and name != "status.json":  # without one it is no run
        file.unlink()
    else:
        file.write_bytes(damage or b"")
    collection = read_collection([tmp_path / "runs"])
    assert [run.path.name for run in collection.runs][-1] == "good"
    assert len(collection.runs) + len(collection.failures) == 2


def test_a_run_knows_how_many_of_its_steps_were_skipped(tmp_path: Path) -> None:
    summary = foreign_run(tmp_path) / "summary.json"
    told = json.loads(summary.read_text())
    summary.write_text(json.dumps({**told, "steps": 10, "skipped_steps": 4}))
    (run,) = read_collection([tmp_path]).runs
    assert (run.skipped_steps, run.steps) == (4, 10)

    summary.write_text(json.dumps({**told, "steps": 10, "skipped_steps": "many"}))
    assert "skipped_steps is text" in read_collection([tmp_path]).failures[0].reason


@pytest.mark.parametrize(
    ("content", "read"), [("- seed=0\n- optimizer=sam\n", ["seed=0", "optimizer=sam"]), ("{}", None)]
)
def test_a_run_is_reported_without_its_damaged_overrides(
    content: str, read: list[str] | None, tmp_path: Path
) -> None:
    file = foreign_run(tmp_path) / ".hydra" / "overrides.yaml"
    file.parent.mkdir()
    file.write_text(content)
    (run,) = read_collection([tmp_path]).runs
    assert run.overrides == read and len(run.damages) == (read is None)


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no status\.json"):
        read_collection([tmp_path / "empty"])
    with pytest.raises(UserError, match="does not exist"):
        read_collection([tmp_path / "nowhere"])
