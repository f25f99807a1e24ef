"""Damaged files of run directories and sweeps: no traceback, no wait, and no other run or job is hidden."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from miniclip.errors import UserError
from miniclip.runs import RunDirectory
from miniclip.runs.sweep import Sweep
from miniclip.training.resuming import find_checkpoint
from tests.conftest import TINY
from tests.in_process import Answer, miniclip_in_process, train_in_process
from tests.reliability.damages import PRIVATE, SWEEP_FILES, Damage, damages, no_longer_than

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fifos, and links without rights")

SECONDS = 60.0
"""The longest that a command may take; what waits for a pipe takes longer."""

SETTINGS = (
    *TINY[:-1],
    "trainer.budget.epochs=1",
    "trainer.num_workers=0",
    "data.seeded_test_fraction=0.2",
    "device=cpu",
)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished jobs with every file that a run directory may have."""
    folder = tmp_path_factory.mktemp("damaged") / "sweep"
    done = train_in_process("-m", *SETTINGS, "seed=0,1", f"hydra.sweep.dir={folder}")
    assert done.returncode == 0, done.stderr

    for job in jobs_in(folder):
        run = RunDirectory(job)
        run.append_skipped(3, ["1F600", "1F601"])
        (job / "wandb_id").write_text("abcd1234")
        (job / "continued_in").write_text("../nowhere\n")
        run.evaluation.mkdir(exist_ok=True)
        (run.evaluation / "retrieval.json").write_text('{"protocol": "val"}')
    return folder


@pytest.fixture(scope="module")
def light_sweep(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with small files in the place of checkpoints, for what reads none."""
    copy = shutil.copytree(sweep, tmp_path_factory.mktemp("light") / "sweep")
    for checkpoint in copy.glob("*/checkpoints/*.pt"):
        checkpoint.write_bytes(b"weights")
    return copy


def jobs_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/job.json"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / PRIVATE).write_text("of another folder")
    return tmp_path


def damaged_copy(run: Path, target: Path, damage: Damage) -> Path:
    copy = shutil.copytree(run, target)
    damage.apply(copy)
    return copy


def sampled(cases: list[Damage], count: int) -> list[Damage]:
    """Cases spread over all of them."""
    return [cases[index * len(cases) // count] for index in range(count)]


class Figures:
    """Counts what came of cases, and prints it as one line."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def case(self, name: object, check: Callable[[], str]) -> None:
        """Do a case, whose check returns what came of it."""
        try:
            with no_longer_than(SECONDS):
                self.counts[check()] += 1
        except BaseException as error:
            self.counts["traceback"] += 1
            self.wrong.append(f"{name}: {error!r}")

    def tell(self, what: str) -> None:
        """Print the line, and fail where anything went wrong."""
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.counts.items()))
        print(f"\n{what}: {self.counts.total()} damages: {counts}, {self.counts['traceback']} tracebacks")
        assert not self.wrong, "\n".join(self.wrong)


def came_of(done: Answer) -> str:
    """What came of a command, which tells an error in one line."""
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    if done.returncode == 0:
        return "worked without"
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done.stderr
    return "told in one line"


def report(folder: Path, out: Path) -> Answer:
    return miniclip_in_process("report", folder, "--out", out)


def hidden(names: Iterable[str], out: Path) -> list[str]:
    """Runs that a report says nothing of."""
    shown = (out / "report.csv").read_text() + (out / "report.md").read_text()
    return [name for name in names if name not in shown]


@pytest.mark.parametrize("count", [100, pytest.param(None, marks=pytest.mark.long)])
def test_a_report_shows_or_lists_every_run(count: int | None, light_sweep: Path, place: Path) -> None:
    cases = damages() if count is None else sampled(damages(), count)
    runs = place / "runs"
    shutil.copytree(jobs_in(light_sweep)[0], runs / "sound")
    for damage in cases:
        copy = damaged_copy(jobs_in(light_sweep)[0], runs / damage.name, damage)
        key = copy / "job.json"  # each is a job of its own
        if damage.file != "job.json":
            key.write_text(json.dumps({"format": 2, "key": damage.name, "overrides": []}))

    figures = Figures()
    figures.case("report", lambda: came_of(report(runs, place / "out")))
    num_hidden = len(hidden(["sound", *(damage.name for damage in cases)], place / "out"))
    figures.tell(f"report over {len(cases)} damaged runs beside a sound one, {num_hidden} hidden")
    assert num_hidden == 0
    assert "of another folder" not in (place / "out" / "report.html").read_text()


@pytest.mark.parametrize("count", [100, pytest.param(None, marks=pytest.mark.long)])
def test_auto_finds_the_sound_run_beside_a_damaged_one(
    count: int | None, light_sweep: Path, place: Path
) -> None:
    sound = shutil.copytree(jobs_in(light_sweep)[0], place / "0_sound")
    for file in ("continued_in", "summary.json"):
        (sound / file).unlink()
    (sound / "status.json").write_text('{"status": "interrupted"}')
    config: dict[str, Any] = yaml.safe_load((sound / "config.yaml").read_text())

    def beside(damage: Damage) -> str:
        damaged = damaged_copy(sound, place / "1_damaged", damage)
        checkpoint = find_checkpoint("auto", RunDirectory(place / "2_new"), config)
        assert checkpoint is not None and checkpoint.is_file()
        for folder in (damaged, place / "2_new"):
            shutil.rmtree(folder)
        (sound / "continued_in").unlink(missing_ok=True)
        return "worked without" if checkpoint.is_relative_to(damaged) else "left alone"

    files = [damage for damage in damages() if (sound / damage.file).exists()]
    figures = Figures()
    for damage in files if count is None else sampled(files, count):
        figures.case(damage, lambda damage=damage: beside(damage))  # type: ignore[misc]
    figures.tell("trainer.resume=auto beside a damaged run")


@pytest.mark.parametrize("count", [60, pytest.param(None, marks=pytest.mark.long)])
def test_a_sweep_knows_all_its_jobs(count: int | None, light_sweep: Path, place: Path) -> None:
    """Neither is trained anew, but for one that nothing tells the key or the result of."""
    keys = [job.key for job in Sweep(light_sweep).jobs()]
    second = jobs_in(light_sweep)[1].name

    def launched(damage: Damage) -> str:
        copy = shutil.copytree(light_sweep, place / "sweep")
        damage.apply(copy if damage.file in SWEEP_FILES else copy / second)
        again = Sweep(copy)
        try:
            again.claim(keys)
        except UserError as error:
            assert str(copy) in str(error) and damage.file == "sweep.json"
            return "told in one line"
        finally:
            again.write_summary()
            lines = again.failures()
            jobs = again.jobs()
            shutil.rmtree(copy)

        assert [job.path.name for job in jobs if job.is_completed][:1] == [jobs_in(light_sweep)[0].name]
        assert len(jobs) == 2
        assert all("\n" not in line for line in lines)
        return "named" if lines or any(job.damages for job in jobs) else "worked without"

    # a sweep reads no checkpoint
    cases = [*damages(SWEEP_FILES), *(damage for damage in damages() if "/" not in damage.file)]
    figures = Figures()
    for damage in cases if count is None else sampled(cases, count):
        figures.case(damage, lambda damage=damage: launched(damage))  # type: ignore[misc]
    figures.tell("a sweep whose second job or own file is damaged")


def test_a_damaged_sweep_goes_on(sweep: Path, place: Path) -> None:
    """Its plan, its table, the one job's key and the other's summary: nothing is trained anew."""
    copy = shutil.copytree(sweep, place / "sweep")
    first, second = jobs_in(copy)
    before = [(job / "checkpoints/best.pt").read_bytes() for job in (first, second)]
    for folder, file, kind in (
        (copy, "sweep.json", "a_list"),
        (copy, "summary.csv", "a_folder"),
        (first, "job.json", "cut"),
        (second, "summary.json", "not_utf8"),
    ):
        Damage(file, kind).apply(folder)
    done = train_in_process("-m", *SETTINGS, "seed=0,1", f"hydra.sweep.dir={copy}")
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout.count("Done already") == 1 and "sweep.json is damaged" in done.stdout
    assert "table cannot be written" in done.stdout
    assert [job.is_completed for job in Sweep(copy).jobs()] == [True, True]
    assert [(job / "checkpoints/best.pt").read_bytes() for job in (first, second)] == before


@pytest.mark.parametrize("command", ["evaluate", "train"])
@pytest.mark.parametrize("count", [4, pytest.param(None, marks=pytest.mark.long)])
def test_commands_on_a_damaged_run_work_without_it_or_tell_it(
    count: int | None, command: str, sweep: Path, place: Path
) -> None:
    """Evaluating it, and going on in its folder."""

    def done_on(damage: Damage) -> str:
        run = damaged_copy(jobs_in(sweep)[0], place / "run", damage)
        words = {
            "evaluate": ["evaluate", run, "retrieval"],
            "train": ["train", *SETTINGS, "seed=0", f"hydra.run.dir={run}", "trainer.resume=auto"],
        }
        try:
            return came_of(miniclip_in_process(*words[command], cwd=place))
        finally:
            shutil.rmtree(run)

    read = ("environment.json", "evaluation", "checkpoints") if command == "evaluate" else ("",)
    cases = [damage for damage in damages() if damage.file.startswith(read)]
    figures = Figures()
    for damage in cases if count is None else sampled(cases, count):
        figures.case(damage, lambda damage=damage: done_on(damage))  # type: ignore[misc]
    figures.tell(f"{command} on a damaged run")
