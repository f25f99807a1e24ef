"""The page in a browser, of any number of runs, and of a test part."""

import csv
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from miniclip.errors import UserError
from miniclip.report.page import write_report
from miniclip.report.runs import Collection
from tests.report.conftest import run_of

pytest.importorskip("scipy", reason="needs the extra report")


def test_the_page_opens_in_a_browser_without_an_error(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium")
    runs = [run_of(rho, seed, 300) for rho in (0, 0.05, 0.1) for seed in (0, 1)]
    files = write_report(Collection(runs, []), tmp_path)
    done = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *("--window-size=1200,2400", f"--screenshot={tmp_path / 'page.png'}", f"file://{files[0]}"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr
    assert (tmp_path / "page.png").stat().st_size > 50_000


@pytest.mark.long
@pytest.mark.parametrize("count", [1, 200])
def test_one_run_or_two_hundred(tmp_path: Path, count: int) -> None:
    runs = [run_of(number / 1000, 0, 300) for number in range(count)]
    page = write_report(Collection(runs, []), tmp_path)[0]
    assert page.stat().st_size < 8_000_000
    assert "Warning: groups of one seed" in page.read_text()


def test_a_control_that_is_no_group_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--control optimizer\.rho=7 is none of the groups; they differ in:"
    ):
        runs = [run_of(rho, 0, 300) for rho in (0, 0.1)]
        write_report(Collection(runs, []), tmp_path, control="optimizer.rho=7")


def test_the_number_of_a_test_part_is_reported_and_named(tmp_path: Path) -> None:
    runs = [run_of(rho, seed, 300 + 10 * seed) for rho in (0, 0.1) for seed in (0, 1)]
    tested = []
    for run in runs:
        record = {f"test/{key}": value - 1 for key, value in run.numbers.items()}
        tested.append(replace(run, test={**record, "protocol": "test: 200 images, 200 captions"}))
    write_report(Collection(tested, []), tmp_path / "tested")
    page = (tmp_path / "tested" / "report.md").read_text()
    assert "The numbers are: test, measured once with the checkpoint that validation chose." in page
    assert "rsum 309.0 (test: 200 images, 200 captions)" in page
    header, first, *_ = (tmp_path / "tested" / "report.csv").read_text().splitlines()
    row = dict(zip(header.split(","), next(csv.reader([first])), strict=True))
    assert (row["rsum"], row["validation rsum"]) == ("299", "300")
    assert row["protocol"].startswith("test")

    write_report(Collection(runs, []), tmp_path / "validated")
    page = (tmp_path / "validated" / "report.md").read_text()
    assert "The numbers are: best of 1 validation." in page and "data.seeded_test_fraction" in page
    with pytest.raises(UserError, match="protocols"):
        write_report(Collection([runs[0], tested[1]], []), tmp_path / "both")
