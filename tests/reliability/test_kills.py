"""A run that is killed at any instants goes on as if nothing had happened."""

import json
import random
import signal
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.kills import Death, die, random_kills, read_deaths
from tests.reliability.trials import TINY, Trial, outcome

SMALL = (*(each for each in TINY if not each.startswith("data.limit")), "data.limit=48")
STEPS_PER_EPOCH = 3
"""Three epochs of them."""

KILLS_IN_A_ROW = 7

SETTINGS: dict[str, Sequence[str]] = {
    "default": [],
    "inside epochs": ["trainer.checkpoint_every_steps=1", "trainer.keep_last=2", "trainer.keep_best=2"],
    "in the background": ["trainer.checkpoint_every_steps=1", "trainer.save_in_background=true"],
    "workers": ["trainer.num_workers=2", "encoder.text.dropout=0.1", "data.captions=all"],
    "looksam": ["optimizer=looksam", "precision=bf16", "trainer.checkpoint_every_epochs=1"],
}
"""What is killed in the long form."""

MOST_LOST = {"inside epochs": 1, "in the background": 2, "workers": 4}
"""Steps that a kill may lose, where they are not three: with all captions an epoch has four, and in the
background one more is done while the one before is saved."""


def finished(folder: Path, *settings: str) -> dict[str, Any]:
    """What a run comes to that nothing happens to."""
    trial = Trial(*SMALL, *settings, f"hydra.run.dir={folder}", output=folder.with_suffix(".txt"))
    assert trial.wait() == 0, trial.printed
    return outcome(folder)


def killed(folder: Path, *settings: str, seed: int) -> tuple[dict[str, Any], list[Death]]:
    """What a run comes to that is killed at seeded instants and goes on each time; the kills that hit."""
    told = folder.with_suffix(".json")
    kills = random_kills(random.Random(seed), KILLS_IN_A_ROW)
    trial = Trial(
        *SMALL,
        *settings,
        f"hydra.run.dir={folder}",
        "trainer.resume=auto",
        output=folder.with_suffix(".txt"),
        before=partial(die, kills, told),
    )
    assert trial.wait() == 0, f"{kills}\n{trial.printed}"
    return outcome(folder), [death for death in read_deaths(told) if death.is_hit]


def kill_until(
    number: int, tmp_path: Path, *settings: str, seeds: Iterable[int], most_lost: int
) -> list[Death]:
    """Kill runs of the same settings, until so many kills have hit; each must end like the whole one."""
    whole = finished(tmp_path / "whole", *settings)
    deaths: list[Death] = []
    for seed in seeds:
        found, hits = killed(tmp_path / f"killed_{seed}", *settings, seed=seed)
        differing = [name for name in whole if found[name] != whole[name]]
        assert not differing, hits
        deaths += hits
        if len(deaths) >= number:
            break

    most = max(death.lost_steps for death in deaths)
    print(f"{len(deaths)} kills, {len(deaths)} resumed to the bit, at most {most} steps lost")
    assert len(deaths) >= number
    assert most <= most_lost
    return deaths


def test_killed_eight_times_runs_end_like_the_one_that_was_not(tmp_path: Path) -> None:
    kill_until(8, tmp_path, seeds=range(10), most_lost=STEPS_PER_EPOCH)


@pytest.mark.long
@pytest.mark.parametrize("variant", SETTINGS)
def test_killed_forty_times(variant: str, tmp_path: Path) -> None:
    """Two hundred kills in all."""
    most_lost = MOST_LOST.get(variant, STEPS_PER_EPOCH)
    kill_until(40, tmp_path, *SETTINGS[variant], seeds=range(100, 160), most_lost=most_lost)


@pytest.mark.long
def test_a_sweep_that_is_killed_and_launched_again_ends_like_the_one_that_was_not(tmp_path: Path) -> None:
    """The whole process, at random times; each job is trained to the same, and listed once."""
    settings = [*SMALL, "-m", "seed=0,1,2,3"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    trial = Trial(*settings, f"hydra.sweep.dir={whole}", output=tmp_path / "whole.txt")
    assert trial.wait() == 0, trial.printed

    chance = random.Random(0)
    num_killed = 0
    for number in range(6):
        trial = Trial(*settings, f"hydra.sweep.dir={killed}", output=tmp_path / f"{number}.txt")
        num_killed += trial.kill_after(chance.uniform(1, 4))
        assert trial.wait() in (0, 128 + signal.SIGKILL), trial.printed
    trial = Trial(*settings, f"hydra.sweep.dir={killed}", output=tmp_path / "last.txt")
    assert trial.wait() == 0, trial.printed

    print(f"{num_killed} kills of a sweep")
    assert num_killed >= 2
    jobs = sorted(path.parent.name for path in whole.glob("*/job.json"))
    assert sorted(path.parent.name for path in killed.glob("*/job.json")) == jobs
    for name in jobs:
        assert outcome(killed / name) == outcome(whole / name)
        assert json.loads((killed / name / "status.json").read_text())["status"] == "completed"
