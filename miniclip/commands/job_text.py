"""What a job says: what it is about to train, and how well its best checkpoint does."""

from typing import Any

from miniclip.errors import counted
from miniclip.metrics import recall_table
from miniclip.runs import RunDirectory
from miniclip.training import Trainer, TrainingSetup


def headline(experiment: TrainingSetup, trainer: Trainer, run: RunDirectory) -> str:
    train, val, test = experiment.train_set, experiment.val_set, experiment.test_set
    sizes = [f"{len(train):,} training", f"{len(val):,} validation"]
    sizes += [] if test is None else [f"{len(test):,} test"]
    parameters = sum(p.numel() for p in experiment.model.parameters())
    return (
        f"{parameters / 1e6:.1f} M parameters on {trainer.device}, "
        f"{str(experiment.precision.dtype).removeprefix('torch.')}; "
        f"{', '.join(sizes[:-1])} and {sizes[-1]} images; writing to {run.path}"
    )


def table(summary: dict[str, Any], run: RunDirectory) -> str:
    """What a run says at its end: how well its best checkpoint does, and on what."""
    best, test = summary["best"], summary.get("test")
    lines = [
        f"\nBest of {counted(summary['validations'], 'validation')} ({best['protocol']})",
        *recall_table(best, prefix="val/"),
        f"rsum {summary['best_rsum']:.1f} at step {best['step']} ({_epoch(best)})",
    ]
    if test is not None:
        lines += [
            f"Test, measured once with that checkpoint ({test['protocol']})",
            *recall_table(test, prefix="test/"),
            f"rsum {test['test/rsum']:.1f}",
        ]
    return "\n".join(
        [
            *lines,
            f"{summary['images_per_second']:.0f} images per second, {summary['seconds']:.0f} s",
            f"Everything is in {run.path}",
        ]
    )


def _epoch(record: dict[str, Any]) -> str:
    """When a validation was: "epoch 2" at the end of the second, "in epoch 1" within the first."""
    # runs of earlier versions keep only the epochs that were completed
    begun = record.get("epochs_begun", record["epoch"])
    return f"epoch {begun}" if begun == record["epoch"] else f"in epoch {begun}"
