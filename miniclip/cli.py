"""The command line: `python run.py ...`, which is also `miniclip train ...`, and `miniclip evaluate`."""

import argparse
import difflib
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from miniclip.errors import UserError

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parent
# a checkout has conf/ and experiments/ beside the package, an installed wheel inside it
HOME = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parent


def main() -> None:
    """The `miniclip` command."""
    commands: dict[str, Callable[[], None]] = {
        "train": train,
        "evaluate": evaluate,
        "doctor": doctor,
        "text-study": text_study,
    }
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(
            "usage: miniclip COMMAND ...\n\n"
            "  train [SETTING=VALUE ...]   the same as python run.py\n"
            "  evaluate RUN sharpness      how sharp the minimum is that a run found\n"
            "  doctor [SETTING=VALUE ...]  what is wrong with a data set\n"
            "  text-study                  what each attention costs as captions grow"
        )
        return
    if name not in commands:
        sys.exit(f"miniclip has no command {name}; it has: {', '.join(commands)}")
    sys.argv = [f"miniclip {name}", *sys.argv[2:]]
    commands[name]()


def train() -> None:
    """Compose the config from the command line and train, once or as a sweep.

    Exits with 1 after an error and with 128 + signal after an interruption.
    """
    _prepare_hydra()
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach this function instead of Hydra's printer
    run = hydra.main(config_path=str(HOME / "conf"), config_name="config", version_base="1.3")
    try:
        run(_job)()
    except KeyboardInterrupt as interruption:
        sys.exit(128 + getattr(interruption, "signum", 2))
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            traceback.print_exc()
        wrong = f"{error.override}: " if isinstance(error, OverrideParseException) else ""
        sys.exit(f"Error: {wrong}{error}{_nearest(str(error))}")


def evaluate() -> None:
    """Measure a trained run: print, and write into RUN/evaluation/."""
    parser = argparse.ArgumentParser(prog="miniclip evaluate", description=evaluate.__doc__)
    parser.add_argument("run", type=Path, help="a run directory, or a checkpoint")
    parser.add_argument("task", choices=["sharpness"])
    parser.add_argument("changes", nargs="*", metavar="SETTING=VALUE", help="data.root=/elsewhere, ...")
    parser.add_argument("--radii", type=float, nargs="+", default=[0.01, 0.02, 0.05, 0.1, 0.2])
    parser.add_argument("--batches", type=int, default=2, help="training batches looked at")
    parser.add_argument("--batch-size", type=int, default=64, help="images a batch, the m of m-sharpness")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    with _told_errors():
        _sharpness(arguments)


def doctor() -> None:
    """Examine the data set of `python run.py SETTINGS`; print, and write outputs/NAME/doctor/.

    Exits with 1 when images lie on both sides of the split or cannot be read.
    """
    overrides = [argument for argument in sys.argv[1:] if argument not in ("-h", "--help")]
    if overrides != sys.argv[1:]:
        print("usage: miniclip doctor [SETTING=VALUE ...], data=folder data.root=DIR for example")
        return
    with _told_errors():
        healthy = _examine(compose(*overrides))
    sys.exit(0 if healthy else 1)


def text_study() -> None:
    """Measure every attention of the text tower at several lengths, and write outputs/text-study/."""
    options = sorted(path.stem for path in (HOME / "conf/encoder/text/attention").glob("*.yaml"))
    parser = argparse.ArgumentParser(prog="miniclip text-study", description=text_study.__doc__)
    parser.add_argument("--attentions", nargs="+", default=options, choices=options)
    parser.add_argument("--lengths", type=int, nargs="+", default=[16 * 2**i for i in range(9)])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--k", type=int, default=64, help="Linformer's k, where a caption is as long")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    with _told_errors():
        _study(arguments)


def _study(arguments: argparse.Namespace) -> None:
    from miniclip.build import make
    from miniclip.evaluation import Cost, attention_costs
    from miniclip.report.figures import draw_costs
    from miniclip.tracking import write_text
    from miniclip.training.train import find_device

    if min(arguments.lengths) < 1 or arguments.k < 1 or arguments.rounds < 1:
        raise UserError("--lengths, --k and --rounds must be at least 1.")
    if arguments.heads < 1 or arguments.width % arguments.heads:
        raise UserError(f"--heads={arguments.heads} must divide --width={arguments.width}.")

    def maker(name: str) -> Callable[..., Any]:
        def build(*, context_length: int, **sizes: int) -> Any:
            changes = []
            if name.startswith("linformer"):
                changes = [f"encoder.text.attention.k={min(arguments.k, context_length)}"]
            cfg = compose(f"encoder/text/attention={name}", *changes)
            return make(cfg, "encoder.text.attention")(context_length=context_length, **sizes)

        return build

    device = find_device(arguments.device)
    costs = attention_costs(
        {name: maker(name) for name in arguments.attentions},
        arguments.lengths,
        width=arguments.width,
        num_heads=arguments.heads,
        device=device,
        rounds=arguments.rounds,
    )
    folder = Path("outputs") / "text-study"
    folder.mkdir(parents=True, exist_ok=True)
    header = Cost._fields
    rows = [
        [f"{value:.4g}" if isinstance(value, float) else str(value) for value in cost] for cost in costs
    ]
    write_text(folder / "costs.csv", "".join(f"{','.join(row)}\n" for row in [list(header), *rows]))
    draw_costs(costs, folder / "costs.png", device=str(device))
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in [list(header), *rows]:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    training = {(cost.attention, cost.length): cost.training_ms for cost in costs}
    for name, length in training:
        if name == "linformer_fused" and ("linformer", length) in training:
            ratio = training["linformer", length] / training[name, length]
            print(f"linformer_fused at {length} tokens: {ratio:.2f} times as fast as the package linformer")
    print(f"Everything is in {folder}")


@contextmanager
def _told_errors() -> Iterator[None]:
    """What a user can mend ends the command with one line."""
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"Error: {error}{_nearest(str(error))}")


def _examine(cfg: DictConfig) -> bool:
    from miniclip.build import check, make
    from miniclip.data.doctor import Remarks, examine
    from miniclip.report.figures import draw_examination
    from miniclip.tracking import write_text

    check(cfg)
    cfg.data.on_broken_image = "skip"  # to find all that are missing, not the first
    with Remarks() as remarks:
        splits = make(cfg, "data").splits()
    tokenizer = make(cfg, "tokenizer")
    tokenizer.fit(caption for own in splits[0].captions for caption in own)
    found = examine(splits, token_lengths=tokenizer.lengths, context_length=cfg.context_length)
    found.remarks = remarks.texts
    folder = Path("outputs") / cfg.name / "doctor"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "doctor.json", json.dumps(found.as_dict(), indent=2, ensure_ascii=False) + "\n")
    draw_examination(found, folder / "doctor.png")
    for name, counts in found.splits.items():
        least, mean, most = counts["captions_an_image"]
        print(
            f"{name}: {counts['images']:,} images, {counts['captions']:,} captions ({least} to {most} an "
            f"image, {mean:.1f} on average), fingerprint {counts['fingerprint']}"
        )
        if counts["classes"]:
            classes = list(counts["classes"].items())
            (largest, most), (smallest, least) = classes[0], classes[-1]
            print(
                f"{name}: {len(classes):,} classes, from {largest} ({most:,} images) to "
                f"{smallest} ({least:,})"
            )
    num_captions = sum(found.token_lengths.values())
    print(
        f"captions cut off at context_length={found.context_length}: {found.num_truncated:,} of "
        f"{num_captions:,}; the longest has {max(found.token_lengths)} tokens"
    )
    for title, groups in (
        ("remarks on the tables", [[remark] for remark in found.remarks]),
        ("images that cannot be read", [[reason] for reason in found.broken.values()]),
        ("groups of images with the same pixels", found.exact_duplicates),
        ("pairs of images that look the same", found.near_duplicates),
        ("of these on both sides of the split", found.leaks),
    ):
        print(f"{title}: {len(groups):,}")
        for group in groups[:3]:
            print(f"    {' = '.join(group)}")
    healthy = not found.leaks and not found.broken
    print(f"{'Healthy.' if healthy else 'NOT healthy.'} Everything is in {folder}")
    return healthy


def _sharpness(arguments: argparse.Namespace) -> None:
    from miniclip.build import restore
    from miniclip.data.loader import EpochBatches, Loader
    from miniclip.evaluation import LossSurface, landscape, m_sharpness, top_eigenvalue
    from miniclip.models import inputs_of
    from miniclip.report.figures import draw_landscape
    from miniclip.tracking import write_text
    from miniclip.training.interruption import ignore_in_worker
    from miniclip.training.train import find_device

    device = find_device(arguments.device)
    restored = restore(arguments.run, *arguments.changes)
    model = restored.model.to(device)
    train_set, _ = restored.datasets()
    size, count = arguments.batch_size, arguments.batches
    if min(arguments.radii) <= 0 or size < 2 or not 1 <= count <= len(train_set) // size:
        raise UserError(
            f"--radii must be above 0, --batch-size at least 2, and --batches={count} of "
            f"--batch-size={size} must fit into the {len(train_set):,} training images."
        )
    order = EpochBatches(len(train_set), batch_size=size, seed=restored.config.seed)
    loader = Loader(train_set, order, device=device, num_workers=0, worker_init=ignore_in_worker)
    batches = [inputs_of(batch, restored.tokenizer) for batch in islice(loader, count)]
    surface = LossSurface(model, restored.loss(), batches)
    rises = {f"{radius:g}": m_sharpness(surface, radius) for radius in arguments.radii}
    result: dict[str, Any] = {
        "checkpoint": str(restored.checkpoint),
        "protocol": f"train: {count} x {size} images, float32, batch statistics",
        "data_fingerprint": train_set.split.fingerprint(),
        "loss": surface.mean_loss(),
        "m_sharpness": rises,
        "top_eigenvalue": top_eigenvalue(surface),
    }
    slices = landscape(surface, radius=max(arguments.radii))
    folder = arguments.run if arguments.run.is_dir() else restored.checkpoint.parent.parent
    folder = folder / "evaluation"
    folder.mkdir(exist_ok=True)
    write_text(folder / "sharpness.json", json.dumps(result | {"landscape": slices._asdict()}, indent=2))
    draw_landscape(slices, folder / "sharpness.png", protocol=result["protocol"])
    print(f"{restored.checkpoint} ({result['protocol']})")
    print(f"loss at the weights     {result['loss']:12.4f}")
    for radius, rise in rises.items():
        print(f"m-sharpness, rho {radius:6} {rise:12.4f}")
    print(f"top Hessian eigenvalue  {result['top_eigenvalue']:12.4f}")
    print(f"Everything is in {folder}")


def compose(*overrides: str) -> DictConfig:
    """The config of `python run.py OVERRIDES`, for use from Python."""
    _prepare_hydra()
    with hydra.initialize_config_dir(str(HOME / "conf"), version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))


def _prepare_hydra() -> None:
    """What conf/config.yaml refers to."""
    os.environ["MINICLIP_HOME"] = str(HOME)
    OmegaConf.register_new_resolver("short_overrides", _short_overrides, replace=True)


def _job(cfg: DictConfig) -> float:
    """One run. Returns the best rsum, for sweepers to maximise."""
    from miniclip.build import build
    from miniclip.report.figures import draw_curves, draw_retrieval, read_metrics
    from miniclip.tracking import RunDirectory

    run = RunDirectory(Path(HydraConfig.get().runtime.output_dir))
    run.write_status("running")
    try:
        trainer, experiment, logger = build(cfg, run)
        log.info("%s", _headline(experiment, trainer, run))
        logger.start(run.metrics, name=_run_name(cfg), config=experiment.config)
        summary: dict[str, Any] = {}
        figures: dict[str, Path] = {}
        failed = True
        try:
            summary, features = trainer.fit(experiment, run, logger)
            figures = {
                "curves": draw_curves(read_metrics(run), run.figures / "curves.png"),
                "retrieval": draw_retrieval(
                    features,
                    experiment.val_set.split,
                    run.figures / "retrieval.png",
                    protocol=summary["best"]["protocol"],
                ),
            }
            failed = False
        finally:
            logger.finish(failed=failed, summary=summary, figures=figures)
    except KeyboardInterrupt:
        run.write_status("interrupted")
        raise
    except BaseException as error:
        run.write_status("failed", reason=f"{type(error).__name__}: {error}")
        raise
    run.write_status("completed")
    log.info("%s", _table(summary, run))
    return summary["best_rsum"]


def _run_name(cfg: DictConfig) -> str:
    output_dir = Path(HydraConfig.get().runtime.output_dir)
    return f"{cfg.name} {output_dir.name}"


def _headline(experiment: Any, trainer: Any, run: Any) -> str:
    train, val = experiment.train_set, experiment.val_set
    parameters = sum(p.numel() for p in experiment.model.parameters())
    return (
        f"{parameters / 1e6:.1f} M parameters on {trainer.device}, "
        f"{str(experiment.precision.dtype).removeprefix('torch.')}; "
        f"{len(train):,} training and {len(val):,} validation images; writing to {run.path}"
    )


def _table(summary: dict[str, Any], run: Any) -> str:
    best = summary["best"]
    rows: list[tuple[str, ...]] = [("", "R@1", "R@5", "R@10", "median rank")]
    for direction, title in (("i2t", "image to text"), ("t2i", "text to image")):
        recalls = (f"{best[f'val/{direction}_r{k}']:.1f}" for k in (1, 5, 10))
        rows.append((title, *recalls, f"{best[f'val/{direction}_median_rank']:g}"))
    table = "\n".join(f"{row[0]:14}" + "".join(f"{cell:>13}" for cell in row[1:]) for row in rows)
    return (
        f"\nBest of {summary['epochs']} epochs ({best['protocol']})\n{table}\n"
        f"rsum {summary['best_rsum']:.1f} at epoch {best['epoch']}; "
        f"{summary['images_per_second']:.0f} images/s, {summary['seconds']:.0f} s\n"
        f"Everything is in {run.path}"
    )


def _short_overrides(overrides: list[str]) -> str:
    """A job's overrides as a folder name: `rho=0.05,seed=0`. No paths, the last 80 letters."""
    pairs = (override.partition("=") for override in overrides)
    short = [f"{key.rpartition('.')[2]}={value}" for key, _, value in pairs if "/" not in value]
    return re.sub(r"[^\w.,=-]", "-", ",".join(short))[-80:].lstrip(",.") or "default"


def _nearest(message: str) -> str:
    """The right spelling of a key or an option that Hydra does not know, as a sentence to add."""
    wrong_key = re.search(r"Could not override '([^']+)'", message)
    if wrong_key:
        word, known = wrong_key[1], _known_keys()
    else:
        wrong_option = re.search(r"Could not find '([^']+)/([^'/]+)'", message)
        if not wrong_option:
            return ""
        folder = HOME / "conf" / wrong_option[1]
        word = wrong_option[2]
        known = [path.stem for path in folder.glob("*.yaml")]
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"\nDid you mean {near[0]}?" if near else ""


def _known_keys() -> list[str]:
    """Every setting and group of the config, whatever its options."""
    keys = set()
    for path in (HOME / "conf").rglob("*.yaml"):
        group = path.relative_to(HOME / "conf").parent.as_posix()
        keys.add(group)
        prefix = "" if group == "." else group.replace("/", ".") + "."
        content = OmegaConf.load(path)
        keys |= {f"{prefix}{key}" for key in map(str, content) if key[0] != "_"}
    return sorted(keys)
