"""Recall that is learned from the same samples and in the same minutes, beside open_clip's own trainer.

    python -m benchmarks.time_to_recall /path/to/fashion [SETTING=VALUE ...] [--rival-tower resnet34]
                                        [--samples 40072] [--seeds 0]

open_clip trains one epoch. MiniCLIP trains on the same images through `python run.py
experiments=time_to_recall`: as many samples with AdamW and a transformer for the captions, as open_clip has
one; as many samples with the experiment's own settings (`--all` only); and as many minutes with these. All
have the experiment's image tower, unless `--rival-tower` names another one of timm's for open_clip. Models
are then read from their checkpoints and measured by one evaluator on the validation titles. Seconds are
those of the whole command, with all it does: starting, caches, and MiniCLIP's validation and figures.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from benchmarks import open_clip_trainer
from benchmarks.timing import conditions
from miniclip.config.compose import compose
from miniclip.config.instantiate import make
from miniclip.config.restore import restore
from miniclip.data import Split
from miniclip.data.loader import Loader
from miniclip.data.sampler import sequential_batches
from miniclip.metrics import DIRECTIONS, Features, encode, joined_recalls, retrieval_metrics
from miniclip.metrics.retrieval import caption_owners

REPOSITORY = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
ADAMW_BATCH_SIZE = 128

ADAMW = (
    "encoder/text=linformer",
    f"trainer.batch_size={ADAMW_BATCH_SIZE}",
    "optimizer=adamw",
    "optimizer.lr=1e-3",
    "encoder.text.embedding_lr_factor=10",
    "encoder.text.block_lr_factor=0.1",
    "schedule.warmup_fraction=0.1",
)
"""Its own rates, where the experiment has Muon's, and open_clip's size of a batch."""

MARGIN_SECONDS = 30
"""By which starting may take longer the second time, and what further epochs add in validations."""

WARMUP_FRACTION = 0.1
"""Of open_clip's steps; its default of 10,000 steps is longer than the run."""


class Result(NamedTuple):
    """Result of one side.

    Attributes:
        seconds: the whole command.
        images_per_second: of training alone.
        metrics: see `retrieval_metrics`.
    """

    name: str
    seconds: float
    images_per_second: float
    metrics: dict[str, float]

    def line(self) -> str:
        recalls = [joined_recalls(self.metrics, direction) for direction in DIRECTIONS]
        return (
            f"{self.name:40} {'   '.join(recalls)}   {self.metrics['rsum']:6.1f}   "
            f"{self.seconds:5.0f} s   {self.images_per_second:4.0f} images/s"
        )


def open_clip(train: Split, val: Split, folder: Path, tower: str) -> Result:
    """One epoch of open_clip with an image tower of timm's."""
    files = write_images(train, folder / "train")
    pairs = [(file, captions[0]) for file, captions in zip(files, train.captions, strict=True)]
    steps = len(train) // open_clip_trainer.BATCH_SIZE
    started = time.perf_counter()
    output = open_clip_trainer.train(
        pairs, folder, warmup_steps=max(1, round(WARMUP_FRACTION * steps)), tower=tower, save=True
    )
    seconds = time.perf_counter() - started
    rates = [float(rate) for rate in re.findall(r"([\d.]+)/s,", output)]
    metrics = retrieval_metrics(*open_clip_features(val, folder, tower))
    return Result(f"open_clip, {tower}", seconds, statistics.median(rates[1:]), metrics)


@torch.inference_mode()
def open_clip_features(val: Split, folder: Path, tower: str) -> Features:
    """The validation split as open_clip's checkpoint sees it, through its own preprocessing."""
    import open_clip as package

    package.add_model_config(open_clip_trainer.write_model(folder, tower))
    name = open_clip_trainer.MODEL_NAME
    model, _, preprocess = package.create_model_and_transforms(
        name, pretrained=str(open_clip_trainer.checkpoint(folder)), weights_only=False
    )
    model.eval()
    texts, owners = caption_owners(val.captions)
    token_ids = package.get_tokenizer(name)(texts)
    images = [preprocess(image_of(val, number)) for number in range(len(val))]
    image_features = [model.encode_image(torch.stack(part), normalize=True) for part in parts_of(images)]
    text_features = [model.encode_text(part, normalize=True) for part in token_ids.split(256)]
    return Features(torch.cat(image_features), torch.cat(text_features), owners)


def parts_of(images: list[Tensor]) -> list[list[Tensor]]:
    return [images[start : start + 256] for start in range(0, len(images), 256)]


def miniclip(name: str, folder: Path, *settings: str) -> tuple[Result, float]:
    """One run of ours, and what it took besides training."""
    run = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, str(REPOSITORY / "run.py"), "experiments=time_to_recall", *settings]
    started = time.perf_counter()
    open_clip_trainer.run([*command, f"hydra.run.dir={run}"], folder)
    seconds = time.perf_counter() - started
    summary = json.loads((run / "summary.json").read_text())
    result = Result(
        f"MiniCLIP, {name}",
        seconds,
        summary["images_per_second"],
        retrieval_metrics(*miniclip_features(run)),
    )
    return result, seconds - summary["best"]["train/seconds"]


def miniclip_features(run: Path) -> Features:
    """The validation split as the best checkpoint of a run sees it."""
    restored = restore(run)
    _, val_set = restored.datasets()
    loader = Loader(val_set, sequential_batches(len(val_set), 256), device=CPU, num_workers=0)
    return encode(
        restored.model,
        (batch.images for batch in loader),
        val_set.split.captions,
        restored.tokenizer,
        device=CPU,
        autocast=nullcontext,
        batch_size=256,
    )


def image_of(split: Split, number: int) -> Image.Image:
    """An image of a split, as it is stored."""
    return Image.fromarray(split.images[number].permute(1, 2, 0).numpy())


def write_images(split: Split, folder: Path) -> list[Path]:
    """Write every image of a split as a PNG file, which open_clip's trainer can name in its table."""
    folder.mkdir()
    files = [folder / f"{number}.png" for number in range(len(split))]
    for number, file in enumerate(files):
        image_of(split, number).save(file)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=lambda text: Path(text).resolve(), help="the folder of parquet files")
    parser.add_argument("--samples", type=int, help="the first so many training images; all of them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of MiniCLIP's runs")
    parser.add_argument("--all", action="store_true", help="as many samples with its own optimizer, too")
    parser.add_argument("--rival-tower", help="timm's name of open_clip's image tower; MiniCLIP's own")
    parser.add_argument("settings", nargs="*", metavar="SETTING=VALUE", help="more for MiniCLIP")
    arguments = parser.parse_args()

    # with all settings, so that a wrong one is told before open_clip trains
    given = [f"data.root={arguments.root}", *arguments.settings]
    cfg = compose("experiments=time_to_recall", *given)
    train, val, _ = make(cfg, "data").read_parts()
    train = train.select("train", range(min(len(train), arguments.samples or len(train))))
    data = [f"data.limit={max(len(train), len(val))}", *given]

    print(conditions("torch", "torchvision", "open-clip-torch", "timm"))
    print(f"{len(train):,} training images, {len(val):,} validation titles; R@1/5/10 and rsum")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rival = open_clip(train, val, folder, arguments.rival_tower or cfg.encoder.image.architecture)
        print(rival.line(), flush=True)

        for seed in arguments.seeds:
            common = [*data, f"seed={seed}"]
            sides: list[tuple[str, tuple[str, ...], int]] = [("AdamW", ADAMW, ADAMW_BATCH_SIZE)]
            if arguments.all:
                sides.append(("its own settings", (), cfg.trainer.batch_size))
            results, other_seconds = [], 0.0
            for name, settings, batch_size in sides:
                steps = f"trainer.budget.steps={len(train) // batch_size}"
                result, other_seconds = miniclip(
                    f"same samples, {name}, seed {seed}", folder, *common, steps, *settings
                )
                results.append(result)
                print(result.line(), flush=True)

            minutes = (rival.seconds - other_seconds - MARGIN_SECONDS) / 60
            if minutes <= 0:
                sys.exit("open_clip was done before MiniCLIP could start: give it more --samples.")
            budget = f"trainer.budget.minutes={minutes}"
            longer, _ = miniclip(f"same minutes, seed {seed}", folder, *common, budget)
            print(longer.line(), flush=True)

            for result in (*results, longer):
                print(
                    f"{result.name}: R@10 {mean_recall(result) / mean_recall(rival):.2f} times open_clip's "
                    f"in {result.seconds / rival.seconds:.2f} of its time",
                    flush=True,
                )


def mean_recall(result: Result) -> float:
    """R@10, the mean of both directions."""
    return (result.metrics["i2t_r10"] + result.metrics["t2i_r10"]) / 2


if __name__ == "__main__":
    main()
