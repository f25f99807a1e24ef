"""`miniclip report` of a sweep: its three files, and what it refuses."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from miniclip.config.compose import compose
from tests.conftest import TINY, miniclip_command
from tests.in_process import train_in_process

pytest.importorskip("scipy", reason="needs the extra report")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six real jobs, three rhos and two seeds, and two that fail."""
    folder = tmp_path_factory.mktemp("sweep")
    settings = ["optimizer=sam", "optimizer.rho=0,0.05,0.1", "seed=0,1", f"hydra.sweep.dir={folder}"]
    assert train_in_process("-m", *TINY, *settings).returncode == 0
    broken = ["trainer.batch_size=999", "seed=0,1", f"hydra.sweep.dir={folder / 'broken'}"]
    assert train_in_process("-m", *TINY, *broken).returncode == 1
    return folder


def test_a_sweep_becomes_a_page_that_needs_nothing_else(sweep: Path, tmp_path: Path) -> None:
    done = miniclip_command(tmp_path, "report", sweep)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "report"
    page = (folder / "report.html").read_text()
    sources = re.findall(r"(?:src|href)='([^']{0,30})", page)
    assert len(sources) == 4 and all(source.startswith("data:image/") for source in sources)
    assert "http" not in re.sub(r"data:[^']*", "", page)
    text = (folder / "report.md").read_text()
    assert "2 runs without a result" in text and "is larger than the training set" in text
    assert "not started" not in text + done.stderr
    assert "6 runs in 3 groups" in text and "| rho=0.05 | 2 |" in text and "control" in text
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    assert len(lines) == 3 and all("optimizer=sam optimizer.rho=" in line for line in lines)
    assert all(compose(*shlex.split(line)).optimizer.rho in (0, 0.05, 0.1) for line in lines)
    with open(folder / "report.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted({row["optimizer.rho"] for row in rows}) == ["0", "0.05", "0.1"] and len(rows) == 6
    for row in rows:
        num_passes = 1 if row["optimizer.rho"] == "0" else 2
        assert int(row["best_forward_passes"]) == int(row["best_step"]) * num_passes
        summary = json.loads((Path(row["run"]) / "summary.json").read_text())
        assert (int(row["steps"]), float(row["seconds"])) == (summary["steps"], summary["seconds"])
        assert float(row["best_train_seconds"]) < float(row["seconds"])


def test_jobs_that_have_not_started_are_told(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep, tmp_path / "sweep", ignore=shutil.ignore_patterns("[2-5]_*", "broken"))
    done = miniclip_command(tmp_path, "report", "sweep")
    assert done.returncode == 0 and "4 of 6 jobs of" in done.stderr and "not started" in done.stderr


def test_what_does_not_compare_is_refused(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep, tmp_path / "sweep")
    path = next(iter(sorted((tmp_path / "sweep").glob("1_*")))) / "environment.json"
    facts = json.loads(path.read_text())
    for side in facts["data"].values():
        side["fingerprint"] = "0123456789abcdef"
    path.write_text(json.dumps(facts))
    done = miniclip_command(tmp_path, "report", "sweep")
    assert done.returncode == 1 and "2 different data fingerprints" in done.stderr
    assert miniclip_command(tmp_path, "report", "sweep", "--mix").returncode == 0


def test_a_strangers_reason_gives_the_terminal_no_commands(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep, tmp_path / "sweep")
    path = next(iter(sorted((tmp_path / "sweep" / "broken").glob("0_*")))) / "status.json"
    status = json.loads(path.read_text())
    path.write_text(json.dumps({**status, "reason": "\x1b[2J\x9b1m\rall is well"}))
    done = miniclip_command(tmp_path, "report", "sweep")
    written = (tmp_path / "outputs" / "report").glob("report.[mc]*")
    told = [done.stdout, done.stderr, *(file.read_bytes().decode() for file in written)]
    assert any(r"\x1b[2J\x9b1m" in text for text in told)
    assert not any(set("\x1b\x9b") & set(text) for text in told)
