"""Measure trained models: print, and write into RUN/evaluation/.

A model is a run directory, a checkpoint, a saved or an exported model, or open_clip:NAME:WEIGHTS; only
the first two know their data, and give them to the others that follow. Tasks are retrieval, zero_shot,
linear_probe, few_shot, health, pictures and sharpness; without any, those that suit the data but
sharpness. Settings are those of the data (data.class_column=..., data=cifar10 data.root=...) and of the
tasks (eval.tasks.zero_shot.templates=clip, eval.tasks.few_shot.num_seeds=3, ...). The validation part
is measured; data.eval_split=test takes the test part, data.use=all every image.
"""

import argparse
import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig

from miniclip.config.compose import compose
from miniclip.config.groups import groups
from miniclip.errors import UserError

if TYPE_CHECKING:
    import torch

    from miniclip.config.restore import Restored
    from miniclip.evaluation import DatasetEncoder, TaskContext

EXAMPLES = """\
  miniclip evaluate outputs/miniclip/RUN
  miniclip evaluate RUN zero_shot few_shot data.class_column=article_type
  miniclip evaluate RUN data=cifar10 data.root=/path/to/cifar
  miniclip evaluate RUN open_clip:RN50:/path/to/weights.pt retrieval
  miniclip evaluate RUN exported retrieval
"""

PREPROCESSING = ("data.image_size", "data.eval_crop")
"""Settings of the data that say what a run's model sees of an image; any other model knows it itself."""

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Models, tasks and settings in any order, told apart by how they look."""
    parser.add_argument("words", nargs="+", metavar="MODEL | TASK | SETTING=VALUE")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def run(arguments: argparse.Namespace) -> None:
    """Measure each model by the tasks, print the results, and compare what several retrieve."""
    from miniclip.config.build import check_part
    from miniclip.config.instantiate import make
    from miniclip.config.restore import restore
    from miniclip.evaluation import comparison, result_text
    from miniclip.training.device import find_device

    device = find_device(arguments.device, setting="--device")
    words = _sorted_by_kind(arguments.words)
    cfg = _config_of_tasks(words.tasks, words.of_tasks)
    check_part(cfg, "eval")
    evaluation = make(cfg, "eval")

    restored = None
    # all of them first: what is wrong with the last is told before any is measured
    contexts: deque[tuple[TaskContext, str]] = deque()
    for name in _in_order(words.models):
        if _lacks_data(name):
            contexts.append((_context_of_model(name, restored, words.of_data, device), name))
        else:
            restored = restore(Path(name), *words.of_data)
            contexts.append((_context_of_run(name, restored, device), str(restored.checkpoint)))

    retrieved = []
    while contexts:
        context, checkpoint = contexts.popleft()
        results = evaluation.run(context, checkpoint=checkpoint)
        print(f"{context.model.name}, data {context.val.split.fingerprint()}")
        for task, result in results.items():
            print(result_text(task, result))
        print(f"Everything is in {context.folder}\n")
        if "retrieval" in results:
            retrieved.append((context.model.name, results["retrieval"].numbers))

    if len(retrieved) > 1:
        print("\n".join(comparison(retrieved)))


def _in_order(models: list[str]) -> list[str]:
    """As typed, so that each has the data of the run before it; runs first where none is before it."""
    return sorted(models, key=_lacks_data) if _lacks_data(models[0]) else models


class _Words(NamedTuple):
    """What was typed, by its kind."""

    models: list[str]
    tasks: list[str]
    of_tasks: list[str]
    of_data: list[str]


def _sorted_by_kind(words: Sequence[str]) -> _Words:
    """Tell models, tasks and settings apart.

    Raises:
        UserError: when a word is none of them, or no model is named.
    """
    known_tasks = groups()["eval/tasks"]
    # jobs of sweeps lie in folders such as 0_rho=0.05
    paths = [word for word in words if Path(word).exists()]
    # a folder of figures may be called health
    tasks = [word for word in words if word in known_tasks and not _is_model(Path(word))]
    settings = [word for word in words if ("=" in word or word.startswith("~")) and word not in paths]
    models = [word for word in words if word not in tasks and word not in settings]

    if not models:
        raise UserError(
            "Which model? Give a run directory, a checkpoint, a saved or exported model or "
            "open_clip:NAME:WEIGHTS."
        )
    for word in models:
        if not _is_of_open_clip(word) and word not in paths:
            listed = ", ".join(known_tasks)
            raise UserError(f"{word} is no run, no checkpoint and none of the tasks {listed}.")

    of_tasks = [word for word in settings if word.lstrip("~").startswith(("eval.", "eval/", "eval="))]
    of_data = [word for word in settings if word not in of_tasks]
    for word in of_data:
        _check_has_effect(word)
    return _Words(models, tasks, of_tasks, of_data)


def _check_has_effect(setting: str) -> None:
    """Stop at a setting of training, which a trained model does not read any more."""
    key = _key(setting)
    if key not in ("data", "seed") and not key.startswith("data."):
        raise UserError(
            f"{setting}: evaluate takes settings of the data (data.root=...), of the tasks "
            "(eval.tasks.zero_shot.templates=...) and seed. All others are of training; a run's model is "
            "measured in float32."
        )


def _key(setting: str) -> str:
    """The name of a setting, as in "+data.root=..."."""
    return setting.lstrip("~+").partition("=")[0]


def _is_model(path: Path) -> bool:
    """Whether a path is a file or a folder with a model, and not a mere folder."""
    from miniclip.runs import RunFiles

    return path.is_file() or RunFiles(path).checkpoints.is_dir() or _lacks_data(str(path))


def _is_of_open_clip(word: str) -> bool:
    return word.startswith("open_clip:")


def _lacks_data(word: str) -> bool:
    """Whether a model comes without the data of its run."""
    from miniclip.deploy.onnx_model import is_onnx_folder
    from miniclip.pretrained.folder import is_model_folder

    return _is_of_open_clip(word) or is_model_folder(Path(word)) or is_onnx_folder(Path(word))


def _context_of_model(
    name: str, restored: "Restored | None", of_data: Sequence[str], device: "torch.device"
) -> "TaskContext":
    """A model without data, on those of the run before it, else on those of the settings."""
    from miniclip.config.instantiate import read_data
    from miniclip.evaluation import TaskContext
    from miniclip.evaluation.folders import folder_beside

    _check_preprocessing(name, restored, of_data)
    model, decoding = _model_without_data(name, device)
    if restored is None:
        if not any(word.startswith("data=") for word in of_data):
            log.warning(
                "%s brings no data of its own, and is measured on the drawings of data=openmoji; name its "
                "run too, or data=...",
                name,
            )
        settings = [f"data.{key}={value}" for key, value in decoding.items()]
        train, measured = read_data(compose(*of_data, *settings))
    else:
        train, measured = restored.datasets(**decoding)

    fingerprint = measured.split.fingerprint()
    if _is_of_open_clip(name):
        folder = Path("outputs") / model.name.replace(" ", "/") / "evaluation" / fingerprint
    else:
        altered = [] if restored is None else _that_are_read(restored.altered)
        folder = folder_beside(Path(name), fingerprint, altered=altered)
    return TaskContext(model, train, measured, folder=folder, loss=None, seed=0)


def _check_preprocessing(name: str, restored: "Restored | None", of_data: Sequence[str]) -> None:
    """Tell of settings that are for the run alone, beside a model with a preprocessing of its own.

    Raises:
        UserError: when there is no run.
    """
    read = _that_are_read(of_data)
    unread = " ".join(word for word in of_data if word not in read)
    if unread and restored is None:
        raise UserError(
            f"{unread}: {name} brings its own preprocessing, and is measured with that. Leave it out."
        )
    if unread:
        log.warning("%s is for the run alone: %s is measured with its own preprocessing.", unread, name)


def _that_are_read(settings: Sequence[str]) -> list[str]:
    """The settings of the data that have an effect on a model with a preprocessing of its own."""
    return [setting for setting in settings if _key(setting) not in PREPROCESSING]


def _model_without_data(name: str, device: "torch.device") -> "tuple[DatasetEncoder, dict[str, Any]]":
    """A model, and the settings of the data that photographs are decoded with for it."""
    from miniclip.deploy.evaluated_onnx import EvaluatedOnnxModel
    from miniclip.deploy.onnx_model import OnnxModel, is_onnx_folder
    from miniclip.evaluation import OpenClipModel
    from miniclip.pretrained import MiniCLIP

    # a cache for one measurement would only take space
    if _is_of_open_clip(name):
        theirs = OpenClipModel(name.partition(":")[2], device)
        return theirs, {"image_size": theirs.image_size, "cache": "none"}
    if is_onnx_folder(Path(name)):
        exported = OnnxModel(name)
        size, crop = exported.image_size, exported.eval_crop
        return EvaluatedOnnxModel(exported, name=name), {
            "image_size": size,
            "eval_crop": crop,
            "cache": "none",
        }
    saved = MiniCLIP.from_pretrained(name, device=device)
    saved.name = name
    seen = saved.preprocess
    return saved, {"image_size": seen.image_size, "eval_crop": seen.crop_name, "cache": "none"}


def _context_of_run(name: str, restored: "Restored", device: "torch.device") -> "TaskContext":
    """A run's model on its data, or on those that were asked for."""
    from miniclip.evaluation import TaskContext
    from miniclip.evaluation.folders import evaluation_folder
    from miniclip.pretrained import MiniCLIP

    train, measured = restored.datasets()
    restored.refuse_seen(train, measured)
    return TaskContext(
        MiniCLIP(restored.named(name), device=device),
        train,
        measured,
        folder=evaluation_folder(
            restored.checkpoint, measured.split.fingerprint(), altered=restored.altered
        ),
        loss=restored.loss(),
        optimizer=restored.optimizer(),
        seed=restored.config.seed,
    )


def _config_of_tasks(tasks: Sequence[str], settings: Sequence[str]) -> DictConfig:
    """The config whose `eval` holds the named tasks, or without names those that suit the data."""
    if tasks:
        return compose(f"eval/tasks=[{','.join(tasks)}]", *settings)
    chooses = any(word.startswith(("eval=", "eval/tasks=")) for word in settings)
    return compose(*([] if chooses else ["eval=standard"]), *settings)
