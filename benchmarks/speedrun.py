"""Speedrun: product photographs to 70 % of retrieval at 10, as fast as it can be done.

    python -m benchmarks.speedrun /path/to/fashion [SETTING=VALUE ...] [--runs 5]

The task: Fashion Product Images (Small) as parquet, 40,072 training images of 64 x 64 pixels with their
titles, and 2,000 validation images. The rules:

1. R@10 on all validation images and titles, image to text and text to image, a title right for its own
   image alone and ties counted against the model, is at least 70 both ways: in the mean of five runs or
   more, which differ in their seeds and in nothing else.
2. The time of a run is that of its whole command on an idle machine: starting, decoding, validation, all.
3. Training starts from random weights, and sees no image, title or label but those of the training part.
   Settings may have been searched on the validation part.
4. A record is a row of experiments/LOG.md: command, commit, runs, mean and standard deviation of time and
   recalls, and the conditions that this prints.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.timing import conditions

REPOSITORY = Path(__file__).resolve().parent.parent
GOAL = 70.0
"""Percent of R@10, both ways."""


class Run(NamedTuple):
    """Outcome of one run: seconds of the whole command, and R@10 of the last validation in percent."""

    seconds: float
    i2t_r10: float
    t2i_r10: float


def run(seed: int, root: Path, settings: list[str]) -> Run:
    """One run of `experiments=speedrun`."""
    with tempfile.TemporaryDirectory() as folder:
        given = [f"data.root={root}", f"seed={seed}", f"hydra.run.dir={folder}", *settings]
        started = time.perf_counter()
        command = [sys.executable, str(REPOSITORY / "run.py"), "experiments=speedrun", *given]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started

        records = map(json.loads, (Path(folder) / "metrics.jsonl").read_text().splitlines())
        last = [record for record in records if "val/i2t_r10" in record][-1]
    return Run(seconds, last["val/i2t_r10"], last["val/t2i_r10"])


def summary(runs: list[Run]) -> str:
    """Mean and standard deviation of each number, and whether the goal was reached."""
    lines = []
    for name, unit in (("seconds", "s"), ("i2t_r10", "%"), ("t2i_r10", "%")):
        values = [getattr(each, name) for each in runs]
        deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
        lines.append(f"{name:8} {statistics.mean(values):6.1f} {unit}, standard deviation {deviation:.2f}")

    is_reached = all(
        statistics.mean(recalls) >= GOAL
        for recalls in ([each.i2t_r10 for each in runs], [each.t2i_r10 for each in runs])
    )
    verdict = "reached" if is_reached else "not reached"
    lines.append(f"R@10 of {GOAL:.0f} both ways: {verdict} in the mean of {len(runs)} runs")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=lambda text: Path(text).resolve(), help="the folder of parquet files")
    parser.add_argument("--runs", type=int, default=5, help="seeds from 0 on; a record needs five")
    parser.add_argument("settings", nargs="*", metavar="SETTING=VALUE", help="other than the experiment's")
    arguments = parser.parse_args()

    print(conditions("torch", "torchvision"), flush=True)
    runs = []
    for seed in range(arguments.runs):
        runs.append(run(seed, arguments.root, arguments.settings))
        print(
            f"seed {seed}: {runs[-1].i2t_r10:.1f}/{runs[-1].t2i_r10:.1f} in {runs[-1].seconds:.0f} s",
            flush=True,
        )
    print(summary(runs))


if __name__ == "__main__":
    main()
