"""Measure trained models: print, and write into RUN/evaluation/.

A model is a run directory, a checkpoint, or open_clip:NAME:WEIGHTS. Tasks are retrieval, zero_shot,
linear_probe, few_shot, health, pictures and sharpness; without any, those that suit the data but
sharpness. Settings are those of the data (data.class_column=..., data=cifar10 data.root=...) and of the
evaluation (eval.templates=clip, eval.num_seeds=3, ...). The validation part is measured;
data.eval_split=test takes the test part, data.use=all every image.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from miniclip.config.compose import compose
from miniclip.errors import UserError
from miniclip.files import within

EXAMPLES = """\
  miniclip evaluate outputs/miniclip/RUN
  miniclip evaluate RUN zero_shot few_shot data.class_column=article_type
  miniclip evaluate RUN data=cifar10 data.root=/path/to/cifar
  miniclip evaluate RUN open_clip:RN50:/path/to/weights.pt retrieval
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Models, tasks and settings in any order, told apart by how they look."""
    parser.add_argument("words", nargs="+", metavar="MODEL | TASK | SETTING=VALUE")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def run(arguments: argparse.Namespace) -> None:
    """Measure each model by the tasks, print the results, and compare what several retrieve."""
    from miniclip.config.build import check_part
    from miniclip.config.instantiate import make, read_data
    from miniclip.config.restore import restore
    from miniclip.evaluation import MiniCLIPModel, OpenClipModel
    from miniclip.evaluation.evaluation import TASKS, comparison
    from miniclip.training.train import find_device

    device = find_device(arguments.device)
    words = arguments.words
    # jobs of sweeps lie in folders such as 0_rho=0.05
    paths = [word for word in words if Path(word).exists()]
    tasks = [word for word in words if word in TASKS and word not in paths]
    settings = [word for word in words if "=" in word and word not in paths]
    models = [word for word in words if word not in tasks and word not in settings]
    if not models:
        raise UserError("Which model? Give a run directory, a checkpoint or open_clip:NAME:WEIGHTS.")
    for word in models:
        if not word.startswith("open_clip:") and word not in paths:
            raise UserError(f"{word} is no run, no checkpoint and none of the tasks {', '.join(TASKS)}.")
    own = [word for word in settings if word.startswith(("eval.", "eval="))]
    if tasks:
        own.append(f"eval.tasks=[{','.join(tasks)}]")
    cfg = compose("eval=standard", *own)
    check_part(cfg, "eval")
    evaluation = make(cfg, "eval")
    of_data = [word for word in settings if word not in own]
    restored = None
    found = []
    for word in sorted(models, key=lambda word: word.startswith("open_clip:")):  # runs name the data
        if word.startswith("open_clip:"):
            subject: Any = OpenClipModel(word.partition(":")[2], device)
            # photographs are decoded at the size that a model needs
            size = subject.image_size
            if restored is None:
                datasets = read_data(compose(*of_data, f"image_size={size}", "data.cache=none"))
            else:
                datasets = restored.datasets(image_size=size, cache="none")
            folder = Path("outputs") / subject.name.replace(" ", "/") / "evaluation"
            results = evaluation.run(subject, datasets, folder, checkpoint=word)
        else:
            restored = restore(Path(word), *of_data)
            datasets = restored.datasets()
            subject = MiniCLIPModel(word, restored.model, restored.tokenizer, device)
            folder = _evaluation_folder(restored.checkpoint, datasets[1].split.fingerprint())
            results = evaluation.run(
                subject,
                datasets,
                folder,
                checkpoint=str(restored.checkpoint),
                loss=restored.loss(),
                seed=restored.config.seed,
            )
        print(f"{subject.name}, data {datasets[1].split.fingerprint()}")
        _print_results(results)
        print(f"Everything is in {folder}\n")
        if "retrieval" in results:
            found.append((subject.name, results["retrieval"].numbers))
    if len(found) > 1:
        print("\n".join(comparison(found)))


def _evaluation_folder(checkpoint: Path, fingerprint: str) -> Path:
    """RUN/evaluation for the best checkpoint on the run's validation part; all else has a folder below.

    A checkpoint that lies in no run has its folder beside it.
    """
    from miniclip.data.dataset import SEEDED_TEST

    run = checkpoint.parent.parent
    if checkpoint.parent.name != "checkpoints" or not within(run, "environment.json").is_file():
        return within(checkpoint.parent, f"{checkpoint.stem}_evaluation/{fingerprint}")
    own = _fingerprints(run)
    name = own.get(fingerprint, fingerprint)
    parts = ["evaluation"] if checkpoint.stem == "best" else ["evaluation", checkpoint.stem]
    if name in ("test", SEEDED_TEST) and len(own) > 2:
        parts.append("test")
    elif name == fingerprint:
        parts.append(fingerprint)
    return within(run, "/".join(parts))


def _fingerprints(run: Path) -> dict[str, str]:
    """The parts of the data that a run was trained and measured on, by their fingerprints."""
    path = within(run, "environment.json")
    try:
        own = json.loads(path.read_text("utf-8"))["data"]
        return {split["fingerprint"]: name for name, split in own.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error!r}); evaluate the checkpoint in another folder."
        ) from None


def _print_results(results: dict[str, Any]) -> None:
    for task, result in results.items():
        print(f"{task} ({result.numbers['protocol']}; {result.numbers['checkpoint']})")
        print("\n".join(f"  {line}" for line in result.lines))
