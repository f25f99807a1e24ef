"""What the trainer costs beside its own step: a run's images per second over those of a bare loop.

    python -m benchmarks.overhead [ROUNDS] [SETTING=VALUE ...]

Both train on the embedded data, with the same step and the same loader. The bare loop reads no results,
saves nothing and knows no signals. A round is a run of some steps and as many of the loop.
"""

import itertools
import logging
import tempfile
import time
from pathlib import Path

from benchmarks.command_line import arguments_of
from benchmarks.figures import tell
from benchmarks.timing import Paired, conditions
from miniclip.config.build import build
from miniclip.config.compose import compose
from miniclip.data.loader import Loader
from miniclip.data.sampler import EpochBatches
from miniclip.runs import RunDirectory, RunFacts
from miniclip.training import TrainingStep

WARM_UP, STEPS = 5, 20

SETTINGS = (
    "optimizer=adamw",
    "trainer.validate_every_epochs=1000",
    f"trainer.budget.steps={WARM_UP + STEPS}",
)


def seconds_of_run(folder: Path, *overrides: str) -> float:
    """Seconds of a run's steps after the first ones."""
    cfg = compose(*SETTINGS, *overrides)
    run = RunDirectory(folder)
    trainer, setup, logger = build(cfg, run)
    logger.start(run.metrics, RunFacts("overhead", setup.config))
    trainer.fit(setup, run, logger)
    times = [each["train/seconds"] for each in run.read_metrics() if "train/loss" in each]
    return times[-1] - times[WARM_UP - 1]


def seconds_of_loop(folder: Path, *overrides: str) -> float:
    """Seconds of as many steps without a trainer."""
    cfg = compose(*SETTINGS, *overrides)
    trainer, setup, _ = build(cfg, RunDirectory(folder))
    order = EpochBatches(len(setup.train_set), batch_size=trainer.batch_size, seed=0)
    loader = Loader(
        setup.train_set,
        order,
        device=trainer.device,
        num_workers=trainer.num_workers,
        tokenizer=setup.tokenizer,
    )
    step = TrainingStep(
        setup.model.train(),
        setup.loss,
        setup.optimizer,
        setup.precision,
        grad_clip_norm=trainer.grad_clip_norm,
    )
    batches = iter(loader)
    for batch in itertools.islice(batches, WARM_UP):
        step([batch])
    started = time.perf_counter()
    for batch in itertools.islice(batches, STEPS):
        step([batch])
    return time.perf_counter() - started


def main() -> None:
    arguments = arguments_of(__doc__, rounds=5, settings=["image_size=64", "trainer.batch_size=128"])
    rounds = arguments.rounds
    overrides = arguments.settings
    logging.disable(logging.WARNING)

    paired = Paired({"trainer": [], "loop": []})
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            paired.seconds["trainer"].append(seconds_of_run(Path(folder) / "run", *overrides))
            paired.seconds["loop"].append(seconds_of_loop(Path(folder) / "loop", *overrides))
    print(conditions("torch"))
    tell(paired.figure("trainer", over="loop", unit="times the seconds", rival="a bare loop of its step"))


if __name__ == "__main__":
    main()
