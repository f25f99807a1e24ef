"""Time of a validation of 2,000 images and titles, beside open_clip's own.

    python -m benchmarks.evaluation /path/to/fashion [ROUNDS]

Both encode the same images and titles with a ResNet-34 at 64 pixels in bfloat16 and measure retrieval, each
with its own code: open_clip's `evaluate` reads image files with two workers, MiniCLIP's validation, which
decoded them once, reads them from memory. A round is one validation by each.
"""

import logging
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import open_clip_trainer
from benchmarks.command_line import arguments_of
from benchmarks.figures import tell
from benchmarks.time_to_recall import write_images
from benchmarks.timing import alternate, conditions
from miniclip.config.build import build
from miniclip.config.compose import compose
from miniclip.data import Split
from miniclip.metrics import retrieval_metrics
from miniclip.runs import RunDirectory
from miniclip.training.validation import SplitEncoder

RIVAL = "open_clip's evaluate"


def ours(root: Path, folder: Path) -> tuple[Callable[[], object], Split]:
    """A validation of a run that has not been trained, and the split that it is of."""
    towers = ("encoder/image=resnet34", "encoder/text=linformer")
    settings = (f"data.root={root}", "data.limit=2000", "precision=bf16")
    cfg = compose("experiments=time_to_recall", *towers, *settings)
    trainer, setup, _ = build(cfg, RunDirectory(folder))
    encoder = SplitEncoder(
        setup,
        setup.val_set,
        device=trainer.device,
        batch_size=open_clip_trainer.BATCH_SIZE,
        num_workers=trainer.num_workers,
    )
    return lambda: retrieval_metrics(*encoder("")), setup.val_set.split


def theirs(val: Split, folder: Path) -> Callable[[], object]:
    """open_clip's validation of the same images."""
    import open_clip
    from open_clip_train.data import get_csv_dataset
    from open_clip_train.params import parse_args
    from open_clip_train.train import evaluate

    open_clip.add_model_config(open_clip_trainer.write_model(folder))
    files = write_images(val, folder / "images")
    pairs = ((file, captions[0]) for file, captions in zip(files, val.captions, strict=True))
    table = open_clip_trainer.write_table(pairs, folder / "val.csv")
    words = [f"--val-data={table}", "--csv-img-key=filepath", "--csv-caption-key=title", "--device=cpu"]
    size = f"--batch-size={open_clip_trainer.BATCH_SIZE}"
    args: Any = parse_args([*words, size, "--precision=amp_bf16", "--workers=2"])
    args.rank = args.local_rank = 0
    args.world_size, args.distributed, args.save_logs, args.wandb = 1, False, False, False

    name = open_clip_trainer.MODEL_NAME
    model, _, preprocess = open_clip.create_model_and_transforms(name, output_dict=True)
    tokenizer = open_clip.get_tokenizer(name)
    data = {"val": get_csv_dataset(args, preprocess, is_train=False, tokenizer=tokenizer)}
    return partial(evaluate, model, data, 1, args, None, tokenizer)


def main() -> None:
    arguments = arguments_of(__doc__, "folder", rounds=5)
    root, rounds = arguments.folder, arguments.rounds
    logging.disable(logging.WARNING)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        validation, val = ours(root, folder / "run")
        rivals = {"validation": validation, RIVAL: theirs(val, folder)}
        times = alternate(rivals, rounds=rounds, warmup=1)

    print(conditions("torch", "open-clip-torch", "timm"))
    for name in rivals:
        print(f"{name}: {len(val) / times.median(name):,.0f} images/s")
    tell(times.figure(RIVAL, over="validation", unit="times the seconds", rival="a validation"))


if __name__ == "__main__":
    main()
