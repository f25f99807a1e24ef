"""A data set in a folder, small and healthy, into which a test plants what it looks for."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import miniclip_command


def photograph(seed: int) -> Image.Image:
    """Smooth noise, each seed its own image."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC)


def save_set(root: Path) -> Path:
    """Twelve training and six validation images with two captions each."""
    for side, seeds in (("train", range(12)), ("val", range(12, 18))):
        folder = root / side
        folder.mkdir(parents=True)
        for seed in seeds:
            photograph(seed).save(folder / f"{seed}.jpg", quality=95)
            (folder / f"{seed}.txt").write_text(f"picture number {seed}\nanother caption of {seed}\n")
    return root


def examined(root: Path, *overrides: str) -> tuple[int, dict, str]:
    """Exit status, report and printed text of the doctor."""
    done = miniclip_command(root.parent, "doctor", "data=folder", f"data.root={root}", *overrides)
    assert "Traceback" not in done.stderr, done.stderr
    report = root.parent / "outputs" / "miniclip" / "doctor"
    assert (report / "doctor.png").stat().st_size > 10_000
    return done.returncode, json.loads((report / "doctor.json").read_text()), done.stdout
