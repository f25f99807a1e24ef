"""From a checkpoint back to a model: what comes out of a file is data from a stranger, and calls nothing.

`load_checkpoint` refuses all that is not plain, resolved data. Here each part is looked up in an exact
table of places and names, its settings are held against the signature, and the class is called with them.
Weights come from the checkpoint, and so does the configuration of a Hugging Face model.
"""

import functools
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from miniclip.data.eval_preprocessing import EvalPreprocessing
from miniclip.errors import SettingError, UserError, counted
from miniclip.models import CLIP
from miniclip.models.image_encoder import adopt_preprocessing
from miniclip.pretrained.bundle import ModelBundle
from miniclip.pretrained.parts import Config, check_config, checked_part, node_at
from miniclip.runs import RunFiles
from miniclip.tokenizers import Tokenizer
from miniclip.training.checkpoint import check_architecture, load_checkpoint, load_model
from miniclip.training.contents import shown

LOADS_CODE = ("auto_map", "_implementation", "kernel_config", "quantization_config", "use_kernels")
"""In the keys of a Hugging Face configuration that can name code to load."""

READS_FILES = re.compile("architecture|model_args|.*backbone.*")
"""Keys of a Hugging Face configuration by which vision models read files; text models lack them."""


FEW = 10_000
"""Layers and labels, which any configuration may name."""


class ReadCheckpoint(NamedTuple):
    """A checkpoint whose parts were held against what they may be; nothing is made yet but the tokenizer.

    Attributes:
        path: of the file.
        content: all of it.
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
        UserError: see `read_checkpoint` and `model_of`.
    """
    checkpoint = read_checkpoint(path)
    model = model_of(checkpoint, checkpoint.config)
    preprocessing = preprocessing_of(checkpoint, checkpoint.config)
    name = checkpoint.config["name"]
    return ModelBundle(name, checkpoint.config, model, checkpoint.tokenizer, preprocessing)


def read_checkpoint(path: Path) -> ReadCheckpoint:
    """Read the checkpoint of a run directory (its best) or a file.

    Raises:
        UserError: when there is no whole checkpoint, its weights are not finite, or its config holds
            anything but the settings of MiniCLIP's own parts.
    """
    path = RunFiles(path).best_checkpoint if path.is_dir() else path
    content = load_checkpoint(path)
    with named_after(path):
        check_config(content["config"])
        with named_by("model"):
            check_finite(content["model"])
        with named_by("tokenizer"):
            tokenizer = Tokenizer.from_state(content["tokenizer"])
        config = _as_evaluated(without_places(content["config"]), content["preprocessing"])
    return ReadCheckpoint(path, content, config, tokenizer)


def model_of(checkpoint: ReadCheckpoint, config: Config) -> CLIP:
    """The model of a config with the weights of a checkpoint, in evaluation mode on the CPU.

    Raises:
        UserError: when they are of different architectures.
    """
    with named_after(checkpoint.path):
        model = assemble(config, checkpoint.tokenizer, checkpoint.content)
    adopt_preprocessing(model.image_encoder, checkpoint.content["preprocessing"])
    return model


def preprocessing_of(checkpoint: ReadCheckpoint, config: Config) -> EvalPreprocessing:
    """The preprocessing of a checkpoint, with the image size and the crop of a config."""
    seen = {key: config["data"][key] for key in ("image_size", "eval_crop")}
    return EvalPreprocessing.from_state({**checkpoint.content["preprocessing"], **seen})


def assemble(config: Config, tokenizer: Tokenizer, checkpoint: dict[str, Any]) -> CLIP:
    """The parts of a config put together, with the weights `checkpoint["model"]`.

    Raises:
        UserError: when the weights are of another architecture.
    """
    _check_depth(config, num_tensors=len(checkpoint["model"]))
    # first on a device without memory: sizes out of a file can be anything
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # what is worth saying is said when the model is made
        without_memory = _model(config, tokenizer)
    check_architecture(without_memory, checkpoint, config)

    model = _model(config, tokenizer)
    load_model(model, checkpoint, config)
    return model.to(memory_format=torch.channels_last).eval()


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


def make(config: Config, place: str, **run_time: Any) -> Any:
    """The part at a place, called with its settings and what is known only at run time."""
    part, settings = checked_part(config, place)
    with named_by(place):
        return part(**settings, **run_time)


def full_name(place: str, setting: str) -> str:
    """A setting of a part as the user types it."""
    return setting if setting.startswith(f"{place}.") else f"{place}.{setting}"


@contextmanager
def named_by(place: str) -> Iterator[None]:
    """Whatever a stranger's values make of a part is one line, and its settings have their full names."""
    try:
        yield
    except SettingError as error:
        raise SettingError(full_name(place, error.setting), shown(error.value), error.allowed) from None
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{place}: {reason}") from error


@contextmanager
def named_after(checkpoint: Path) -> Iterator[None]:
    """Errors begin with the file that they are about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"The checkpoint {checkpoint} cannot be restored: {error}") from None


def _model(config: Config, tokenizer: Tokenizer) -> CLIP:
    return CLIP(
        image_encoder=make(config, "encoder.image"),
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
    data, image = dict(config["data"]), dict(config["encoder"]["image"])
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


def check_finite(weights: dict[str, torch.Tensor]) -> None:
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
