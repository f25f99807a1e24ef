"""Reports of runs written here: what they group, compare, refuse and show."""

import base64
import csv
import html
import json
import math
import re
import shlex
import shutil
import subprocess
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

from miniclip.errors import UserError
from miniclip.metrics import Ranks
from miniclip.report.charts import draw_axis
from miniclip.report.groups import Group, group_runs
from miniclip.report.page import write_report
from miniclip.report.runs import Collection, Run, read_collection
from miniclip.report.statistics import compare, paired_interval, spread
from miniclip.runs import RunDirectory
from tests.conftest import TINY, miniclip_command, run_miniclip

stats = pytest.importorskip("scipy.stats", reason="needs the extra report")


def run_of(rho: float, seed: int, rsum: float, *, hits: float = 0.5, num_images: int = 200) -> Run:
    """A run as if it had been read; its ranks hit that share of images in all six recalls."""
    ranks = torch.from_numpy(np.where(np.random.default_rng(seed).random(num_images) < hits, 0, 99))
    best = {f"val/{way}_r{k}": rsum / 6 for way in ("i2t", "t2i") for k in (1, 5, 10)}
    best |= {
        "val/rsum": rsum,
        "protocol": "val: 200 images, 200 captions",
        "step": 10,
        "train/seconds": 60.0,
    }
    settings = {"optimizer.rho": rho, "seed": seed, "data.seed": seed, "name": f"run{seed}"}
    return Run(
        path=Path(f"/runs/{rho}-{seed}"),
        settings=settings,
        best=best,
        validations=[{**best, "train/forward_passes": 20}],
        fingerprint="abc",
        ranks=(Ranks(ranks, ranks), np.arange(num_images)),
    )


def test_spread_is_scipys_interval_of_the_mean() -> None:
    values = [301.0, 318.5, 295.2, 310.0]
    found = spread(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.deviation == pytest.approx(np.std(values, ddof=1))
    assert math.isnan(spread([1.0]).low)


def test_runs_that_differ_in_seed_and_name_are_one_group() -> None:
    groups, varied = group_runs([run_of(rho, seed, 300) for rho in (0.1, 0, 0.05) for seed in (1, 0)])
    assert varied == ["optimizer.rho"]
    assert [group.settings["optimizer.rho"] for group in groups] == [0, 0.05, 0.1]
    assert [[run.seed for run in group.runs] for group in groups] == [[0, 1]] * 3
    assert groups[1].name == "rho=0.05"


def test_what_is_said_of_a_difference() -> None:
    def group(rho: float, *values: float, hits: float = 0.5) -> Group:
        runs = [run_of(rho, seed, value, hits=hits) for seed, value in enumerate(values)]
        return Group(f"rho={rho}", {"optimizer.rho": rho}, runs)

    control = group(0, 300, 302, 298)
    assert compare(group(0.05, 340, 342, 338, hits=0.9), control).remark == "better"
    assert compare(group(0.05, 260, 262, 258, hits=0.1), control).remark == "worse"
    assert compare(group(0.05, 301, 303, 299), control).remark == "within the noise of seeds"
    assert compare(group(0.05, 340), control).remark == "one seed: seeds may differ by more"
    same = compare(group(0.05, 310, 312, 308), control)  # the same hits on the same images
    assert (same.low, same.high) == (0, 0) and same.remark == "within the noise of images"


def test_the_paired_interval_is_that_of_the_mean_difference() -> None:
    """By hand: differences of one image have a known deviation, and pairing keeps what both share out."""
    own, other = run_of(0.1, 0, 300, hits=0.8), run_of(0.0, 0, 300, hits=0.5)
    assert own.ranks is not None and other.ranks is not None
    hits = [(run.ranks[0].image_to_text == 0).double().numpy() for run in (own, other) if run.ranks]
    difference = 600 * (hits[0] - hits[1])
    low, high = paired_interval(Group("a", {}, [own]), Group("b", {}, [other]))
    half = 1.96 * difference.std() / math.sqrt(200)
    assert low == pytest.approx(difference.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(difference.mean() + half, abs=0.15 * half)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six real jobs, three rhos and two seeds, and two that fail."""
    folder = tmp_path_factory.mktemp("sweep")
    settings = ["optimizer.rho=0,0.05,0.1", "seed=0,1", f"hydra.sweep.dir={folder}"]
    assert run_miniclip("-m", *TINY, *settings).returncode == 0
    broken = ["trainer.batch_size=999", "seed=0,1", f"hydra.sweep.dir={folder / 'broken'}"]
    assert run_miniclip("-m", *TINY, *broken).returncode == 1
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
    assert "6 runs in 3 groups" in text and "| rho=0.05 | 2 |" in text and "control" in text
    with open(folder / "report.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted({row["optimizer.rho"] for row in rows}) == ["0", "0.05", "0.1"] and len(rows) == 6
    for row in rows:
        assert int(row["forward_passes"]) == int(row["steps"]) * (1 if row["optimizer.rho"] == "0" else 2)


def test_the_page_opens_in_a_browser_without_an_error(sweep: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium")
    files = write_report(read_collection([sweep]), tmp_path)
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
def test_one_run_or_two_hundred(sweep: Path, tmp_path: Path, count: int) -> None:
    collection = read_collection([next(iter(sorted(sweep.glob("0_*"))))])
    run = collection.runs[0]
    runs = [
        run.__class__(**{**vars(run), "settings": {**run.settings, "optimizer.rho": n / 1000}})
        for n in range(count)
    ]
    page = write_report(collection._replace(runs=runs), tmp_path)[0]
    assert page.stat().st_size < 8_000_000
    assert "Warning: groups of one seed" in page.read_text()


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


def test_a_run_whose_process_is_gone_was_killed(sweep: Path, tmp_path: Path) -> None:
    run = tmp_path / "sweep" / "0_run"
    shutil.copytree(next(iter(sorted(sweep.glob("0_*")))), run)
    state = json.loads((run / "status.json").read_text())
    (run / "summary.json").unlink()
    (run / "status.json").write_text(json.dumps({**state, "status": "running"}))
    for holding, status in ((nullcontext(), "killed"), (RunDirectory(run).lock(), "running")):
        with holding:
            (failure,) = read_collection([tmp_path]).failures
            assert (failure.path, failure.status) == (run, status)


def test_of_several_tries_of_a_job_the_finished_one_counts(sweep: Path, tmp_path: Path) -> None:
    finished = next(iter(sorted(sweep.glob("0_*"))))
    for name in ("0_run", "3_run"):
        shutil.copytree(finished, tmp_path / name)
    (tmp_path / "3_run" / "status.json").write_text(json.dumps({"status": "failed", "reason": "x"}))
    collection = read_collection([tmp_path])
    assert [run.path.name for run in collection.runs] == ["0_run"] and not collection.failures


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


def test_a_setting_that_is_null_is_named(tmp_path: Path) -> None:
    runs = [replace(run_of(0, 0, 300), settings={"k": k, "seed": 0}) for k in (None, 4, 8, 16)]
    groups, varied = group_runs(runs)
    assert [group.name for group in groups] == ["k=4", "k=8", "k=16", "k=null"]
    assert varied == ["k"] and draw_axis(groups, "k", tmp_path / "axis.svg") is not None
    pages = write_report(Collection(runs, []), tmp_path, control="k=null")
    assert "k=null" in pages[1].read_text()


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


def test_runs_on_different_data_are_never_one_group_nor_paired(tmp_path: Path) -> None:
    here = run_of(0.1, 0, 300)
    there = replace(run_of(0.1, 1, 200, num_images=100), fingerprint="def")
    groups, varied = group_runs([here, there])
    assert varied == ["data"] and sorted(group.name for group in groups) == ["data=abc", "data=def"]
    assert all(math.isnan(bound) for bound in paired_interval(*groups))
    assert write_report(Collection([here, there], []), tmp_path, mixes=True)


def test_what_cannot_be_reported_says_why(sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no status\.json"):
        read_collection([tmp_path / "empty"])
    with pytest.raises(UserError, match="does not exist"):
        read_collection([tmp_path / "nowhere"])
    with pytest.raises(
        UserError, match=r"--control optimizer\.rho=7 is none of the groups; they differ in:"
    ):
        write_report(read_collection([sweep]), tmp_path, control="optimizer.rho=7")


def foreign_run(folder: Path, *, name: str = "x", rsum: float = 100.0) -> Path:
    """A finished run as somebody else's machine would write it."""
    best = {**run_of(0, 0, rsum).best, "train/forward_passes": 20, "val/loss": 1.0}
    (folder / "figures").mkdir(parents=True)
    (folder / "status.json").write_text('{"status": "completed"}')
    (folder / "config.yaml").write_text(json.dumps({"seed": 0, "optimizer": {"kind": name}}))
    (folder / "environment.json").write_text('{"data": {"val": {"fingerprint": "abc"}}}')
    (folder / "metrics.jsonl").write_text(json.dumps(best) + "\n")
    (folder / "summary.json").write_text(json.dumps({"best": best}))
    return folder


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
