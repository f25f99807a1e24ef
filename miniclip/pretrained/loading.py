"""From a checkpoint back to a model: what comes out of a file is data from a stranger, and calls nothing.

`load_checkpoint` refuses all that is not plain, resolved data. Here each part is looked up in an exact
table of parts and names, its settings are held against the signature, and the class is called with them.
Weights come from the checkpoint, and so does the configuration of a Hugging Face model.
"""

import functools
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from miniclip.data.eval_preprocessing import EvalPreprocessing
from miniclip.errors import SettingError, UserError, counted, first_line
from miniclip.models import CLIP
from miniclip.models.image_encoder import adopt_preprocessing
from miniclip.pretrained.bundle import LateTower, ModelBundle
from miniclip.pretrained.parts import Config, check_config, checked_part, node_at
from miniclip.pretrained.target import format_of
from miniclip.runs import RunFiles
from miniclip.tokenizers import Tokenizer
from miniclip.training.checkpoint import (
    CheckpointError,
    check_architecture,
    load_checkpoint,
    load_model,
    sound_beside,
)
from miniclip.training.contents import shown

LOADS_CODE = ("auto_map", "_implementation", "kernel_config", "quantization_config", "use_kernels")
"""In the keys of a Hugging Face configuration that can name code to load."""

TOWER = "image_encoder."
"""What the names of the image tower's weights begin with."""

ONLY_FOR_TRAINING = ("optimizer", "scaler", "random_state")
"""Parts of a checkpoint that no one needs who uses the model."""

Module = TypeVar("Module", bound=nn.Module)

READS_FILES = re.compile("architecture|model_args|.*backbone.*")
"""Keys of a Hugging Face configuration by which vision models read files; text models lack them."""


FEW = 10_000
"""Layers and labels, which any configuration may name."""


class ReadCheckpoint(NamedTuple):
    """A checkpoint whose parts were held against what they may be; nothing is made yet but the tokenizer.

    Attributes:
        path: of the file.
        content: of it, but for what only training goes on with, in memory.
        config: of the run, with the image size and the crop that the checkpoint was validated with.
        tokenizer: of the run.
    """

    path: Path
    content: dict[str, Any]
    config: Config
    tokenizer: Tokenizer


def load_run(path: Path) -> ModelBundle:
    """The model of a run directory (its best checkpoint) or of a checkpoint.

    Raises:
        UserError: see `read_checkpoint` and `bundle_of`.
    """
    checkpoint = read_checkpoint(path)
    return bundle_of(checkpoint, checkpoint.config)


def read_checkpoint(path: Path) -> ReadCheckpoint:
    """Read the checkpoint of a run directory (its best) or a file.

    Raises:
        UserError: when there is no whole checkpoint, its weights are not finite, or its config holds
            anything but the settings of MiniCLIP's own parts.
    """
    if path.is_dir():
        _check_run(path)
        path = RunFiles(path).best_checkpoint
    try:
        content = load_checkpoint(path, unread=ONLY_FOR_TRAINING)
    except CheckpointError as error:  # another model is not taken in its place
        raise CheckpointError(f"{error}{sound_beside(path)}") from None
    with named_after(path):
        check_config(content["config"])
        with named_by("model"):
            weights = _in_memory(content["model"])
            check_finite(weights)
        with named_by("tokenizer"):
            tokenizer = Tokenizer.from_state(content["tokenizer"])
        config = _as_evaluated(without_places(content["config"]), content["preprocessing"])
    content = {name: part for name, part in content.items() if name not in ONLY_FOR_TRAINING}
    return ReadCheckpoint(path, {**content, "model": weights}, config, tokenizer)


def _check_run(folder: Path) -> None:
    """Stop at a folder that is no run, and say what it holds instead."""
    if RunFiles(folder).checkpoints.is_dir():
        return
    other = format_of(folder)
    if other not in (None, "safetensors"):  # of ours, half of it
        raise CheckpointError(
            f"{folder} holds a model in the format {other}, which other libraries read. Name the run that "
            "it was exported from."
        )
    raise CheckpointError(
        f"{folder} holds no model: it is no run with checkpoints and no whole saved model."
    )


def bundle_of(checkpoint: ReadCheckpoint, config: Config) -> ModelBundle:
    """The model of a config with the weights of a checkpoint, in evaluation mode on the CPU.

    Raises:
        UserError: when they are of different architectures; of the image tower, when it is made.
    """
    content = checkpoint.content
    with named_after(checkpoint.path):
        text_model = text_model_of(config, checkpoint.tokenizer, content)
    seen = {key: config["data"][key] for key in ("image_size", "eval_crop")}
    preprocessing = EvalPreprocessing.from_state({**content["preprocessing"], **seen})
    late_tower = late_tower_of(config, content, checkpoint.path)
    return ModelBundle(config["name"], config, text_model, checkpoint.tokenizer, preprocessing, late_tower)


def text_model_of(config: Config, tokenizer: Tokenizer, checkpoint: dict[str, Any]) -> CLIP:
    """All parts of a config but the image tower, put together, with their weights in `checkpoint["model"]`.

    Raises:
        UserError: when the weights are of another architecture.
    """
    _check_depth(config, num_tensors=len(checkpoint["model"]))
    weights = {name: tensor for name, tensor in checkpoint["model"].items() if not name.startswith(TOWER)}
    make_model = functools.partial(_model_without_tower, config, tokenizer)
    return _with_weights(make_model, {**checkpoint, "model": weights}, config)


def late_tower_of(config: Config, checkpoint: dict[str, Any], path: Path) -> LateTower:
    """The image tower of a config with its weights in `checkpoint["model"]`, to be made later.

    Args:
        checkpoint: has the `config` and the `preprocessing` that the weights were made with, too.
        path: of the file or the folder that it was read from, which errors name.
    """
    weights = {name: tensor for name, tensor in checkpoint["model"].items() if name.startswith(TOWER)}
    own = {"model": weights, "config": checkpoint["config"], "preprocessing": checkpoint["preprocessing"]}
    return LateTower(weights, functools.partial(_image_tower, config, own, path))


def _check_depth(node: Any, *, num_tensors: int) -> None:
    """Refuse more layers than there are weights: making each takes its time, also without memory.

    Raises:
        UserError: names the setting.
    """
    for key, value in node.items() if isinstance(node, dict) else ():
        is_count = re.search("layer|num_labels", str(key)) is not None
        if is_count and isinstance(value, int) and value > max(num_tensors, FEW):
            raise UserError(f"{shown(key)} is {shown(value)}, and it has weights for {num_tensors} at most")
        _check_depth(value, num_tensors=num_tensors)


def make(config: Config, part: str, **run_time: Any) -> Any:
    """A part, called with its settings and what is known only at run time."""
    maker, settings = checked_part(config, part)
    with named_by(part):
        return maker(**settings, **run_time)


def full_name(part: str, setting: str) -> str:
    """A setting of a part as the user types it."""
    return setting if setting.startswith(f"{part}.") else f"{part}.{setting}"


@contextmanager
def named_by(part: str) -> Iterator[None]:
    """Whatever a stranger's values make of a part is one line, and its settings have their full names."""
    try:
        yield
    except SettingError as error:
        raise SettingError(full_name(part, error.setting), shown(error.value), error.allowed) from None
    except UserError:
        raise
    except Exception as error:
        reason = first_line(error)
        raise UserError(f"{part}: {reason}") from error


@contextmanager
def named_after(path: Path) -> Iterator[None]:
    """Errors begin with the checkpoint, or the folder of a saved model, that they are about."""
    try:
        yield
    except UserError as error:
        is_saved = path.is_dir()
        what = f"model in {path} cannot be loaded" if is_saved else f"checkpoint {path} cannot be restored"
        raise UserError(f"The {what}: {error}") from None


def _in_memory(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors that lie in a file, as precise as a model holds them."""
    return {
        name: tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        for name, tensor in weights.items()
    }


def _image_tower(config: Config, checkpoint: dict[str, Any], path: Path) -> nn.Module:
    """The image tower of a `LateTower`."""

    def make_tower() -> nn.ModuleDict:
        return nn.ModuleDict({TOWER.removesuffix("."): make(config, "encoder.image")})

    with named_after(path):
        (tower,) = _with_weights(make_tower, checkpoint, config).values()
    adopt_preprocessing(tower, checkpoint["preprocessing"])
    return tower


class _WithoutInitialization(TorchFunctionMode):
    """Parameters keep what stands in their memory; of those without memory, to initialize takes a second.

    For that, torch imports its compiler.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return arguments["tensor"] if "tensor" in arguments else args[0]
        return func(*args, **arguments)


def _with_weights(make_module: Callable[[], Module], checkpoint: dict[str, Any], config: Config) -> Module:
    """A module with the weights `checkpoint["model"]`, in evaluation mode.

    Raises:
        UserError: when the weights are of another architecture.
    """
    # first on a device without memory: sizes out of a file can be anything
    with warnings.catch_warnings(), torch.device("meta"), _WithoutInitialization():
        warnings.simplefilter("ignore")  # what is worth saying is said when the model is made
        without_memory = make_module()
    check_architecture(without_memory, checkpoint, config)

    module = make_module()
    load_model(module, checkpoint, config)
    return module.to(memory_format=torch.channels_last).eval()


def _model_without_tower(config: Config, tokenizer: Tokenizer) -> CLIP:
    return CLIP(
        image_encoder=nn.Module(),  # in its place: it cannot be called
        text_encoder=_text_encoder(config, vocab_size=tokenizer.vocab_size),
        projection=make(config, "projection"),
        temperature=make(config, "temperature"),
        loss=make(config, "loss"),
    )


def _text_encoder(config: Config, *, vocab_size: int) -> torch.nn.Module:
    """The text tower, its attention put in, or the configuration of a Hugging Face model."""
    run_time: Config = {"vocab_size": vocab_size}
    settings = {**node_at(config, "encoder.text")}
    if settings["_target_"] == "miniclip.models.HFTextModel":
        if type(settings.get("config")) is not dict:
            raise UserError("encoder.text.config is missing: nothing is read by a name that a file gives")
        _refuse_files(settings["config"])
        settings["config"] = _without_code(settings["config"])
    elif "attention" in settings:
        attention, of_attention = checked_part(config, "encoder.text.attention")
        del settings["attention"]
        run_time["attention"] = functools.partial(attention, **of_attention)
    return make({"encoder": {"text": settings}}, "encoder.text", **run_time)


def _refuse_files(configuration: Any) -> None:
    """Stop at a Hugging Face configuration that makes a model read or fetch files that it names."""
    if type(configuration) is list:
        for below in configuration:
            _refuse_files(below)
    if type(configuration) is not dict:
        return

    for key, value in configuration.items():
        if value and READS_FILES.fullmatch(str(key)):
            raise UserError(
                f"encoder.text.config has {shown(key)}: {shown(value)}, by which a model reads other "
                "files; no text model has it"
            )
        _refuse_files(value)


def _without_code(configuration: Any) -> Any:
    """A Hugging Face configuration without what makes transformers load code by a name."""
    if type(configuration) is not dict:
        return configuration
    return {
        key: _without_code(value)
        for key, value in configuration.items()
        if not any(word in str(key) for word in LOADS_CODE)
    }


def without_places(config: Config) -> Config:
    """The config without weights, which the checkpoint holds, and without a folder to write into."""
    data = dict(config.get("data", {}))  # a saved model has none
    image = dict(config["encoder"]["image"])
    if "cache_dir" in data:
        data["cache_dir"] = None
    if "weights" in image:
        image["weights"] = None
    return {**config, "data": data, "encoder": {**config["encoder"], "image": image}}


def _as_evaluated(config: Config, preprocessing: Config) -> Config:
    """The config with the image size and the crop that the checkpoint was validated with."""
    data = config["data"]
    seen = EvalPreprocessing.from_state({"eval_crop": data.get("eval_crop"), **preprocessing})
    # version 0.1.0 wrote the root's image_size, also where the data had one of its own
    size = data["image_size"] if data["image_size"] != config["image_size"] else seen.image_size
    return {**config, "data": {**data, "image_size": size, "eval_crop": seen.crop_name}}


def check_finite(weights: dict[str, Tensor]) -> None:
    """Refuse weights that are no numbers.

    Raises:
        UserError: names the first such tensor.
    """
    wrong = [name for name, tensor in weights.items() if not bool(tensor.isfinite().all())]
    if wrong:
        verb = "is" if len(wrong) == 1 else "are"
        raise UserError(
            f"{len(wrong)} of its {counted(len(weights), 'tensor')} {verb} not finite, {shown(wrong[0])} "
            "for one; no number measured on it would mean anything"
        )
