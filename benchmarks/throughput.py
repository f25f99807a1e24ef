"""Training images per second beside open_clip's own trainer, on the same photographs.

    python -m benchmarks.throughput /path/to/flickr8k [ROUNDS]

Both train a ResNet-34 at 64 pixels with batches of 128 in bfloat16, each through its own command line;
open_clip with AdamW, its 77-token text tower (`benchmarks.open_clip_trainer`) and two workers that decode
images in every epoch, MiniCLIP with AdamW and with SAM in every step, from images that it decoded once
(`data.cache=memory`). A round is one run of each; the rate is that of the steps after the first five.
"""

import json
import re
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import open_clip_trainer
from benchmarks.command_line import arguments_of
from benchmarks.figures import tell
from benchmarks.open_clip_trainer import BATCH_SIZE
from benchmarks.timing import conditions, rates_figure
from miniclip.data.sources.delimited import read_table

RIVAL = "open_clip's trainer, AdamW"
STEPS = 20
WARMUP_STEPS = 5


def miniclip_rate(root: Path, folder: Path, optimizer: str) -> float:
    """Images per second of `python run.py`."""
    repository = Path(__file__).resolve().parent.parent
    settings = [
        "data=flickr8k",
        f"data.root={root}",
        f"optimizer={optimizer}",
        "precision=bf16",
        "image_size=64",
        f"trainer.batch_size={BATCH_SIZE}",
        f"trainer.budget.steps={STEPS}",
        "trainer.validate_every_epochs=100",
        "data.cache=memory",
        f"hydra.run.dir={folder / optimizer}",
    ]
    open_clip_trainer.run([sys.executable, str(repository / "run.py"), *settings], folder)
    records = map(json.loads, (folder / optimizer / "metrics.jsonl").open())
    times = [record["train/seconds"] for record in records if "train/loss" in record]
    return BATCH_SIZE * (STEPS - WARMUP_STEPS) / (times[-1] - times[WARMUP_STEPS - 1])


def open_clip_rate(root: Path, folder: Path) -> float:
    """Images per second that open_clip's trainer prints."""
    rows = list(read_table(root / "captions.txt"))[::5]
    output = open_clip_trainer.train(
        ((root / "Images" / image, caption) for image, caption in rows * 4), folder, warmup_steps=10
    )
    rates = [float(rate) for rate in re.findall(r"([\d.]+)/s,", output)]
    return statistics.median(rates[1:])


def main() -> None:
    arguments = arguments_of(__doc__, "folder", rounds=3)
    root, rounds = arguments.folder, arguments.rounds

    rates: dict[str, list[float]] = {"adamw": [], "sam": [], RIVAL: []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for optimizer in ("adamw", "sam"):
                rates[optimizer].append(miniclip_rate(root, Path(folder), optimizer))
            rates[RIVAL].append(open_clip_rate(root, Path(folder)))
        print(", ".join(f"{name} {found[-1]:.0f} images/s" for name, found in rates.items()), flush=True)

    print(conditions("torch", "torchvision", "open-clip-torch", "timm"))
    for optimizer in ("adamw", "sam"):
        tell(rates_figure(f"MiniCLIP, {optimizer}", rates[optimizer], RIVAL, rates[RIVAL]))


if __name__ == "__main__":
    main()
