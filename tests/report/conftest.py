"""Runs for reports: made up as if they had been read, and as another machine would write them."""

import json
from pathlib import Path

import numpy as np
import torch

from miniclip.metrics import Ranks
from miniclip.report.runs import Run


def run_of(rho: float, seed: int, rsum: float, *, hits: float = 0.5, num_images: int = 200) -> Run:
    """A run as if it had been read; its ranks hit that fraction of images in all six recalls."""
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
