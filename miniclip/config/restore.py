"""From a checkpoint back to objects: a config out of a file is data from a stranger, and calls nothing.

`load_checkpoint` refuses all that is not plain, resolved data. Here each part is looked up in an exact
table of places and names, its settings are held against the signature, and the class is called with them.
Hydra, which would instantiate and resolve whatever it meets on the way, never sees them.

What a config names is opened as data at most, and that only where this user's signature says that they
wrote it, or where they name it again. Weights come from the checkpoint, and so does the configuration of a
Hugging Face model; no cache is written where a file says.
"""

import functools
import re
import typing
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf

from miniclip.config.compose import compose
from miniclip.config.parts import Config, check_config, checked_part, node_at
from miniclip.data import DataSource, ImageTextDataset
from miniclip.data.eval_preprocessing import EvalPreprocessing
from miniclip.errors import SettingError, UserError, counted
from miniclip.models import MiniCLIP
from miniclip.models.image_encoder import adopt_preprocessing
from miniclip.provenance import is_ours
from miniclip.runs import RunFiles
from miniclip.tokenizers import Tokenizer
from miniclip.training.checkpoint import check_architecture, load_checkpoint, load_model
from miniclip.training.contents import shown

LOADS_CODE = ("auto_map", "_implementation", "kernel_config", "quantization_config", "use_kernels")
"""In the keys of a Hugging Face configuration that can name code to load."""

READS_FILES = re.compile("architecture|model_args|.*backbone.*")
"""Keys of a Hugging Face configuration by which vision models read files; text models lack them."""


class Restored(NamedTuple):
    """What a checkpoint rebuilds without further settings.

    Attributes:
        checkpoint: the file it came from.
        config: the resolved config of its run, with the changes asked for; it holds no interpolation.
        preprocessing: of images for the model: the checkpoint's, with the changes asked for.
        unopened: settings of the data that name places in a file which this user did not sign.
    """

    checkpoint: Path
    config: DictConfig
    model: MiniCLIP
    tokenizer: Tokenizer
    preprocessing: EvalPreprocessing
    unopened: tuple[str, ...]

    def datasets(self, **settings: Any) -> tuple[ImageTextDataset, ImageTextDataset]:
        """The training and the validation data set of the run.

        Args:
            settings: of the data, to take instead of the config's.

        Raises:
            UserError: when a place of the data is named by nothing but a stranger's file.
        """
        config = _as_plain(self.config)
        self._refuse_places(settings.keys())
        config["data"] |= settings
        source = _make(config, "data")
        try:
            return source.datasets()
        except SettingError as error:
            raise SettingError(_full_name("data", error.setting), error.value, error.allowed) from None

    def _refuse_places(self, named: Collection[str]) -> None:
        """Stop before a place is opened that the user has not named."""
        unnamed = [name for name in self.unopened if name not in named]
        if not unnamed:
            return
        data = _as_plain(self.config)["data"]
        theirs = ", ".join(f"data.{name}={shown(data[name])}" for name in unnamed)
        wanted = " ".join(f"data.{name}=..." for name in unnamed)
        raise UserError(
            f"The checkpoint {self.checkpoint} was not trained by you on this machine (it lacks your "
            f"signature), so what its config names is not opened: {theirs}. Say yourself where the data "
            f"is, {wanted}, or take another data set, data=NAME. This also holds for your own runs of "
            "another machine or of version 0.1.0."
        )

    def loss(self) -> typing.Callable[..., torch.Tensor]:
        """The loss of the run, with what it learned."""
        return self.model.loss


def restore(path: Path, *changes: str) -> Restored:
    """Rebuild the model of a run directory (its best checkpoint) or of a checkpoint, on the CPU.

    Args:
        path: of the run directory or checkpoint.
        changes: "data.root=/elsewhere" and the like; "data=NAME" takes another data set with its defaults.

    Raises:
        UserError: when there is no whole checkpoint, its weights are not finite, or its config holds
            anything but the settings of MiniCLIP's own parts.
    """
    checkpoint_path = RunFiles(path).best_checkpoint if path.is_dir() else path
    checkpoint = load_checkpoint(checkpoint_path)
    with _named_after(checkpoint_path):
        check_config(checkpoint["config"])
        with _named_by("data"):
            is_own = is_ours(checkpoint["config"]["data"], checkpoint.get("signature"))
        with _named_by("model"):
            _check_finite(checkpoint["model"])
        with _named_by("tokenizer"):
            tokenizer = Tokenizer.from_state(checkpoint["tokenizer"])
        own_config = _as_evaluated(_without_places(checkpoint["config"]), checkpoint["preprocessing"])

    config = _changed(own_config, changes)
    check_config(config)
    unopened = () if is_own else _unnamed_places(config, changes)

    with _named_after(checkpoint_path):
        # first on a device without memory: sizes out of a file can be anything
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")  # what is worth saying is said when the model is made
            without_memory = _model(config, tokenizer)
        check_architecture(without_memory, checkpoint, config)
        model = _model(config, tokenizer)

    load_model(model, checkpoint, config)
    adopt_preprocessing(model.image_encoder, checkpoint["preprocessing"])
    model.to(memory_format=torch.channels_last).eval()

    seen = {key: config["data"][key] for key in ("image_size", "eval_crop")}
    preprocessing = EvalPreprocessing.from_state({**checkpoint["preprocessing"], **seen})
    return Restored(checkpoint_path, OmegaConf.create(config), model, tokenizer, preprocessing, unopened)


def _make(config: Config, place: str, **run_time: Any) -> Any:
    """The part at a place, called with its settings and what is known only at run time."""
    part, settings = checked_part(config, place)
    with _named_by(place):
        return part(**settings, **run_time)


def _model(config: Config, tokenizer: Tokenizer) -> MiniCLIP:
    return MiniCLIP(
        image_encoder=_make(config, "encoder.image"),
        text_encoder=_text_encoder(config, vocab_size=tokenizer.vocab_size),
        projection=_make(config, "projection"),
        temperature=_make(config, "temperature"),
        loss=_make(config, "loss"),
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
    return _make({"encoder": {"text": settings}}, "encoder.text", **run_time)


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


def _without_places(config: Config) -> Config:
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


def _unnamed_places(config: Config, changes: tuple[str, ...]) -> tuple[str, ...]:
    """Settings of the data that name a place, where no change of the user says which."""
    if any(change.startswith("data=") for change in changes):  # the user's own data set
        return ()
    source, settings = checked_part(config, "data")
    named = {change.partition("=")[0] for change in changes}
    return tuple(
        name
        for name in typing.cast(type[DataSource], source).places
        if settings.get(name) is not None and f"data.{name}" not in named
    )


def _changed(config: Config, changes: tuple[str, ...]) -> Config:
    """The config with the user's changes, which are resolved by themselves and never against the file's."""
    if any(change.startswith("data=") for change in changes):
        own = [change for change in changes if change.startswith(("data=", "data."))]
        seen = [f"image_size={config['data']['image_size']}", f"seed={config['seed']}"]
        data = compose(*seen, f"data.eval_crop={config['data']['eval_crop']}", *own).data
        config = {**config, "data": OmegaConf.to_container(data, resolve=True)}
        changes = tuple(change for change in changes if change not in own)
    known = OmegaConf.create(config)
    for change in changes:
        key, equals, _ = change.partition("=")
        if not equals or OmegaConf.select(known, key, default=...) is ...:
            raise UserError(
                f"{change}: the run has no setting {key}; give SETTING=VALUE, data.root=... say"
            )
    asked = OmegaConf.to_container(OmegaConf.from_dotlist(list(changes)), resolve=True)
    return _as_plain(OmegaConf.merge(known, asked))


def _as_plain(config: Any) -> Config:
    return typing.cast(Config, OmegaConf.to_container(config))


def _check_finite(weights: dict[str, torch.Tensor]) -> None:
    wrong = [name for name, tensor in weights.items() if not bool(tensor.isfinite().all())]
    if wrong:
        verb = "is" if len(wrong) == 1 else "are"
        raise UserError(
            f"{len(wrong)} of its {counted(len(weights), 'tensor')} {verb} not finite, {shown(wrong[0])} "
            "for one; no number measured on it would mean anything"
        )


def _full_name(place: str, setting: str) -> str:
    return setting if setting.startswith(f"{place}.") else f"{place}.{setting}"


@contextmanager
def _named_by(place: str) -> Iterator[None]:
    """Whatever a stranger's values make of a part is one line, and its settings have their full names."""
    try:
        yield
    except SettingError as error:
        raise SettingError(_full_name(place, error.setting), shown(error.value), error.allowed) from None
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{place}: {reason}") from error


@contextmanager
def _named_after(checkpoint: Path) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"The checkpoint {checkpoint} cannot be restored: {error}") from None
