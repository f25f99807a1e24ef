"""Training images a second beside open_clip's own trainer, on the same photographs.

    python -m benchmarks.throughput /path/to/flickr8k [ROUNDS]

Both train a ResNet-34 at 64 pixels with batches of 128 in bfloat16 with AdamW, each through its own
command line; open_clip with its 77-token text tower (`benchmarks.open_clip_trainer`). A round is one run of
each; the rate is that of the steps after the first five.
"""

import json
import re
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import open_clip_trainer
from benchmarks.open_clip_trainer import BATCH_SIZE
from benchmarks.timing import conditions
from miniclip.data.sources.delimited import read_table

STEPS = 20
WARMUP_STEPS = 5


def miniclip_rate(root: Path, folder: Path) -> float:
    """Images a second of `python run.py`."""
    repository = Path(__file__).resolve().parent.parent
    settings = [
        "data=flickr8k",
        f"data.root={root}",
        "optimizer=adamw",
        "image_size=64",
        f"trainer.batch_size={BATCH_SIZE}",
        f"trainer.budget.steps={STEPS}",
        "trainer.validate_every_epochs=100",
        "trainer.num_workers=1",
        f"hydra.run.dir={folder / 'miniclip'}",
    ]
    open_clip_trainer.run([sys.executable, str(repository / "run.py"), *settings], folder)
    records = map(json.loads, (folder / "miniclip" / "metrics.jsonl").open())
    times = [record["train/seconds"] for record in records if "train/loss" in record]
    return BATCH_SIZE * (STEPS - WARMUP_STEPS) / (times[-1] - times[WARMUP_STEPS - 1])


def open_clip_rate(root: Path, folder: Path) -> float:
    """Images a second that open_clip's trainer prints."""
    rows = list(read_table(root / "captions.txt"))[::5]
    output = open_clip_trainer.train(
        ((root / "Images" / image, caption) for image, caption in rows * 4), folder, warmup_steps=10
    )
    rates = [float(rate) for rate in re.findall(r"([\d.]+)/s,", output)]
    return statistics.median(rates[1:])


def main() -> None:
    root = Path(sys.argv[1]).resolve()
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    ours, theirs = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            ours.append(miniclip_rate(root, Path(folder)))
            theirs.append(open_clip_rate(root, Path(folder)))
        print(f"MiniCLIP {ours[-1]:.0f} images/s, open_clip {theirs[-1]:.0f} images/s", flush=True)
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    print(conditions("torch", "torchvision", "open-clip-torch", "timm"))
    print(f"median ratio of {rounds} alternating rounds: {ratio:.2f}")


if __name__ == "__main__":
    main()
