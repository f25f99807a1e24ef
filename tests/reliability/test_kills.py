"""A run that is killed at any instants goes on as if nothing had happened."""

import random
from functools import partial
from pathlib import Path
from typing import Any

from tests.reliability.kills import Death, die, random_kills, read_deaths
from tests.reliability.trials import TINY, Trial, outcome

STEP = "miniclip.training.step:TrainingStep.__call__"
STEPS_PER_EPOCH = 5
KILLS_IN_A_ROW = 7


def finished(folder: Path, *settings: str) -> dict[str, Any]:
    """What a run comes to that nothing happens to."""
    trial = Trial(*TINY, *settings, f"hydra.run.dir={folder}", output=folder.with_suffix(".txt"))
    assert trial.wait() == 0, trial.printed
    return outcome(folder)


def killed(folder: Path, *settings: str, seed: int) -> tuple[dict[str, Any], list[Death]]:
    """What a run comes to that is killed at seeded instants and goes on each time; the kills that hit."""
    told = folder.with_suffix(".json")
    kills = random_kills(random.Random(seed), KILLS_IN_A_ROW)
    trial = Trial(
        *TINY,
        *settings,
        f"hydra.run.dir={folder}",
        "trainer.resume=auto",
        output=folder.with_suffix(".txt"),
        before=partial(die, kills, told),
    )
    assert trial.wait() == 0, f"{kills}\n{trial.printed}"
    return outcome(folder), [death for death in read_deaths(told) if death.is_hit]


def test_killed_twenty_times_runs_end_like_the_one_that_was_not(tmp_path: Path) -> None:
    whole = finished(tmp_path / "whole")
    deaths: list[Death] = []
    for seed in range(10):
        found, hits = killed(tmp_path / f"killed_{seed}", seed=seed)
        assert found == whole, hits
        deaths += hits
        if len(deaths) >= 20:
            break

    most = max(death.lost_steps for death in deaths)
    print(f"{len(deaths)} kills, {len(deaths)} resumed to the bit, at most {most} steps lost")
    assert len(deaths) >= 20
    assert most <= STEPS_PER_EPOCH
