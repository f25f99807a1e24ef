"""open_clip's own trainer on a table of images and captions, through its command line (extra `bench`)."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

MODEL_NAME = "small"
"""What open_clip calls the model of `write_model`."""

TOWER = "resnet34"
"""timm's name of its image tower where no other is asked for."""

BATCH_SIZE = 128

_MAIN = """
import sys, open_clip
open_clip.add_model_config(sys.argv.pop(1))
from open_clip_train.main import main
main(sys.argv[1:])
"""


def train(
    pairs: Iterable[tuple[Path, str]],
    folder: Path,
    *,
    warmup_steps: int,
    tower: str = TOWER,
    save: bool = False,
) -> str:
    """Train one epoch with AdamW at 1e-3 in bfloat16, two workers, cosine to zero.

    Args:
        pairs: image files and captions.
        folder: for the table, the logs and the checkpoint.
        tower: see `write_model`.
        save: keep the checkpoint; see `checkpoint`.

    Returns:
        what it printed.
    """
    table = write_table(pairs, folder / "train.csv")
    settings = {
        "train-data": table,
        "csv-img-key": "filepath",
        "csv-caption-key": "title",
        "model": MODEL_NAME,
        "batch-size": BATCH_SIZE,
        "epochs": 1,
        "precision": "amp_bf16",
        "lr": "1e-3",
        "warmup": warmup_steps,
        "workers": 2,
        "device": "cpu",
        "log-every-n-steps": 5,
        "logs": folder / "logs",
        "name": "run",
        "save-frequency": int(save),
    }
    arguments = [str(text) for key, value in settings.items() for text in (f"--{key}", value)]
    return run([sys.executable, "-c", _MAIN, str(write_model(folder, tower)), *arguments], folder)


def write_table(pairs: Iterable[tuple[Path, str]], table: Path) -> Path:
    """Write image files and captions as the table that open_clip reads."""
    with open(table, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["filepath", "title"])
        writer.writerows(pairs)
    return table


def checkpoint(folder: Path) -> Path:
    """Where `train` leaves its weights."""
    return folder / "logs" / "run" / "checkpoints" / "epoch_1.pt"


def write_model(folder: Path, tower: str = TOWER) -> Path:
    """The folder with the description of the model, for `open_clip.add_model_config`.

    Args:
        folder: where it is made.
        tower: timm's name of the image tower, which is without weights and sees 64 pixels; the text tower
            beside it has 4 layers of width 256.
    """
    image = {"image_size": 64, "timm_model_name": tower, "timm_model_pretrained": False}
    text = {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 4}
    model = {
        "embed_dim": 256,
        "vision_cfg": {**image, "timm_pool": "avg", "timm_proj": "linear"},
        "text_cfg": text,
    }
    models = folder / "models"
    models.mkdir(exist_ok=True)
    (models / f"{MODEL_NAME}.json").write_text(json.dumps(model))
    return models


def run(command: list[str], folder: Path) -> str:
    """Run a trainer in a folder; its output ends the program where it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    return done.stdout + done.stderr
