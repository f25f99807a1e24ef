"""Measure trained models: print, and write into RUN/evaluation/.

A model is a run directory, a checkpoint, or open_clip:NAME:WEIGHTS. Tasks are retrieval, zero_shot,
linear_probe, few_shot, health, pictures and sharpness; without any, those that suit the data but
sharpness. Settings are those of the data (data.class_column=..., data=cifar10 data.root=...) and of the
tasks (eval.tasks.zero_shot.templates=clip, eval.tasks.few_shot.num_seeds=3, ...). The validation part
is measured; data.eval_split=test takes the test part, data.use=all every image.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from miniclip.config.compose import compose
from miniclip.config.hints import groups
from miniclip.errors import UserError

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
    from miniclip.evaluation import MiniCLIPModel, OpenClipModel, TaskContext, comparison
    from miniclip.evaluation.folders import evaluation_folder
    from miniclip.training.device import find_device

    device = find_device(arguments.device)
    words = arguments.words
    known_tasks = groups()["eval/tasks"]
    # jobs of sweeps lie in folders such as 0_rho=0.05
    paths = [word for word in words if Path(word).exists()]
    tasks = [word for word in words if word in known_tasks and word not in paths]
    settings = [word for word in words if ("=" in word or word.startswith("~")) and word not in paths]
    models = [word for word in words if word not in tasks and word not in settings]
    if not models:
        raise UserError("Which model? Give a run directory, a checkpoint or open_clip:NAME:WEIGHTS.")
    for word in models:
        if not word.startswith("open_clip:") and word not in paths:
            told = ", ".join(known_tasks)
            raise UserError(f"{word} is no run, no checkpoint and none of the tasks {told}.")
    own = [word for word in settings if word.lstrip("~").startswith(("eval.", "eval/", "eval="))]
    cfg = _config_of_tasks(tasks, own)
    check_part(cfg, "eval")
    evaluation = make(cfg, "eval")
    of_data = [word for word in settings if word not in own]
    restored = None
    found = []
    for word in sorted(models, key=lambda word: word.startswith("open_clip:")):  # runs name the data
        loss, seed = None, 0
        if word.startswith("open_clip:"):
            checkpoint = word
            model: Any = OpenClipModel(word.partition(":")[2], device)
            # photographs are decoded at the size that a model needs
            size = model.image_size
            if restored is None:
                datasets = read_data(compose(*of_data, f"image_size={size}", "data.cache=none"))
            else:
                datasets = restored.datasets(image_size=size, cache="none")
            folder = Path("outputs") / model.name.replace(" ", "/") / "evaluation"
        else:
            restored = restore(Path(word), *of_data)
            checkpoint = str(restored.checkpoint)
            datasets = restored.datasets()
            model = MiniCLIPModel(
                word,
                restored.model,
                restored.tokenizer,
                preprocess=restored.preprocessing,
                device=device,
            )
            folder = evaluation_folder(restored.checkpoint, datasets[1].split.fingerprint())
            loss, seed = restored.loss(), restored.config.seed
        context = TaskContext(model, *datasets, folder=folder, loss=loss, seed=seed)
        results = evaluation.run(context, checkpoint=checkpoint)
        print(f"{model.name}, data {datasets[1].split.fingerprint()}")
        _print_results(results)
        print(f"Everything is in {folder}\n")
        if "retrieval" in results:
            found.append((model.name, results["retrieval"].numbers))
    if len(found) > 1:
        print("\n".join(comparison(found)))


def _config_of_tasks(tasks: Sequence[str], settings: Sequence[str]) -> DictConfig:
    """The config whose `eval` holds the named tasks, or without names those that suit the data."""
    if tasks:
        return compose(f"eval/tasks=[{','.join(tasks)}]", *settings)
    chooses = any(word.startswith(("eval=", "eval/tasks=")) for word in settings)
    return compose(*([] if chooses else ["eval=standard"]), *settings)


def _print_results(results: dict[str, Any]) -> None:
    for task, result in results.items():
        print(f"{task} ({result.numbers['protocol']}; {result.numbers['checkpoint']})")
        print("\n".join(f"  {line}" for line in result.lines))
