"""The summary of a run: its best validation, and what that cost."""

from collections import Counter
from typing import Any

import torch

from miniclip.training.guards import REMEDY, Diverged
from miniclip.training.progress import Progress
from miniclip.training.setup import TrainingSetup


def summary_of(
    setup: TrainingSetup, progress: Progress, *, seconds: float, device: torch.device
) -> dict[str, Any]:
    """What `summary.json` holds.

    Args:
        seconds: of the whole run, over all its parts.
        device: where it was trained.

    Raises:
        Diverged: when all steps were skipped, or there is no best checkpoint.
    """
    if progress.is_untrained:
        raise Diverged(
            f"Every step was skipped, {progress.step} in all, because a gradient was not finite: the "
            f"weights are those that the run began with. {REMEDY}"
        )
    if progress.best is None:
        raise Diverged(
            "No validation gave a finite loss and features that have not collapsed, so there is no best "
            f"checkpoint. {REMEDY}"
        )

    is_gpu = device.type == "cuda"
    return {
        "best": progress.best,
        "best_rsum": progress.best["val/rsum"],
        "steps": progress.step,
        "epochs": progress.epoch,
        "validations": progress.validations,
        "skipped_steps": progress.skipped_steps,
        "broken_images": dict(Counter(progress.broken.values())),
        "seconds": seconds,
        "images_per_second": progress.images_per_second,
        "peak_gpu_gb": torch.cuda.max_memory_allocated(device) / 1e9 if is_gpu else None,
        "parameters": sum(p.numel() for p in setup.model.parameters()),
        "train_images": len(setup.train_set),
    }
