"""Training images a second beside open_clip's own trainer, on the same photographs.

    python -m benchmarks.throughput /path/to/flickr8k [ROUNDS]

Both train a ResNet-34 at 64 pixels with batches of 128 in bfloat16 with AdamW, each through its own
command line; open_clip (extra `bench`) with its 77-token text tower of width 256 and 4 layers. A round
is one run of each; the rate is that of the steps after the first five.
"""

import csv
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import conditions
from miniclip.data.table import read_table

MODEL = {
    "embed_dim": 256,
    "vision_cfg": {
        "image_size": 64,
        "timm_model_name": "resnet34",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 4},
}
BATCH_SIZE = 128
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
        "trainer.budget.epochs=100",
        f"trainer.budget.steps={STEPS}",
        "trainer.validate_every_epochs=100",
        "trainer.num_workers=1",
        f"hydra.run.dir={folder / 'miniclip'}",
    ]
    _run([sys.executable, str(repository / "run.py"), *settings], folder)
    records = map(json.loads, (folder / "miniclip" / "metrics.jsonl").open())
    times = [record["train/seconds"] for record in records if "train/loss" in record]
    return BATCH_SIZE * (STEPS - WARMUP_STEPS) / (times[-1] - times[WARMUP_STEPS - 1])


def open_clip_rate(root: Path, folder: Path) -> float:
    """Images a second that `python -m open_clip_train.main` prints."""
    table = folder / "train.csv"
    with open(table, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["filepath", "title"])
        rows = list(read_table(root / "captions.txt"))[::5]
        writer.writerows([root / "Images" / image, caption] for image, caption in rows * 4)
    models = folder / "models"
    models.mkdir(exist_ok=True)
    (models / "resnet34-64.json").write_text(json.dumps(MODEL))
    output = _run(
        [
            *(sys.executable, "-c", _OPEN_CLIP_MAIN, str(models)),
            *(
                "--train-data",
                str(table),
                "--csv-img-key",
                "filepath",
                "--csv-caption-key",
                "title",
            ),
            *("--model", "resnet34-64", "--batch-size", str(BATCH_SIZE), "--epochs", "1"),
            *("--precision", "amp_bf16", "--lr", "1e-3", "--workers", "2", "--device", "cpu"),
            *("--log-every-n-steps", "5", "--logs", str(folder / "logs"), "--save-frequency", "0"),
            *("--warmup", "10"),
        ],
        folder,
    )
    rates = [float(rate) for rate in re.findall(r"([\d.]+)/s,", output)]
    return statistics.median(rates[1:])


_OPEN_CLIP_MAIN = """
import sys, open_clip
open_clip.add_model_config(sys.argv.pop(1))
from open_clip_train.main import main
main(sys.argv[1:])
"""


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    return done.stdout + done.stderr


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
