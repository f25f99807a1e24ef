"""From config to objects: the only module that knows Hydra and OmegaConf, beside the command line."""

import atexit
import difflib
import importlib.util
import inspect
import logging
import sys
import types
import typing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union

import hydra
import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

import miniclip.data
import miniclip.losses
import miniclip.models
from miniclip.composing import compose
from miniclip.data import CaptionedImages, Source, Split
from miniclip.data.transforms import MEAN, STD
from miniclip.errors import SettingError, UserError
from miniclip.models import HFTextModel, MiniCLIP, Tokenizer
from miniclip.optim import SAM, parameter_groups, scale_learning_rates
from miniclip.optuna_sweeper import OPTUNA, settings_to_check
from miniclip.sweep import Sweep, job_key, search_key
from miniclip.tracking import JsonlLogger, RunDirectory
from miniclip.training import Experiment, Precision, Trainer
from miniclip.training.checkpoint import load_checkpoint, load_model
from miniclip.training.reproducibility import seed_everything

log = logging.getLogger(__name__)

ROOT_TYPES: dict[str, type] = {
    "name": str,
    "seed": int,
    "embed_dim": int,
    "image_size": int,
    "context_length": int,
    "device": str,
}


def build(cfg: DictConfig, run: RunDirectory) -> tuple[Trainer, Experiment, JsonlLogger]:
    """Make every part of a run, and write what identifies it into its directory.

    Raises:
        UserError: when a setting or a file is wrong; nothing has been trained yet.
    """
    check(cfg)
    config = typing.cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    OmegaConf.save(cfg, run.path / "config.yaml", resolve=True)
    trainer: Trainer = make(cfg, "trainer")
    source: Source = make(cfg, "data")
    train_set, val_set, test_set = source.training_sets()
    tokenizer: Tokenizer = make(cfg, "tokenizer")
    tokenizer.fit(caption for own in train_set.split.captions for caption in own)
    tokenizer.save(run.tokenizer)
    sides = [side for side in (train_set, val_set, test_set) if side is not None]
    facts = {side.split.name: _facts(side.split, tokenizer) for side in sides}
    seed_everything(cfg.seed)
    model = make_model(cfg, vocab_size=tokenizer.vocab_size)
    model.to(trainer.device).to(memory_format=torch.channels_last)
    if isinstance(model.text_encoder, HFTextModel):  # so that a checkpoint needs no file beside it
        config["encoder"]["text"]["config"] = model.text_encoder.config
    experiment = Experiment(
        config=config,
        model=model,
        tokenizer=tokenizer,
        train_set=train_set,
        val_set=val_set,
        test_set=test_set,
        loss=make(cfg, "loss"),
        optimizer=make_optimizer(cfg, model),
        schedule=make(cfg, "schedule"),
        precision=make_precision(cfg, trainer),
        preprocessing={
            "image_size": cfg.image_size,
            "eval_crop": cfg.data.eval_crop,
            "mean": list(MEAN),
            "std": list(STD),
        },
    )
    run.write_environment(trainer.device, facts)
    return trainer, experiment, make(cfg, "logger")


def _facts(split: Split, tokenizer: Tokenizer) -> dict[str, Any]:
    """What a run's environment.json says of a split; its captions are encoded on the way."""
    num_truncated = tokenizer.remember(caption for own in split.captions for caption in own)
    num_captions = int(split.captions.counts.sum())
    if num_truncated:
        log.warning(
            "%d of %d captions (%s) have more than context_length=%d tokens and lose their tail.",
            num_truncated,
            num_captions,
            split.name,
            tokenizer.context_length,
        )
    return {
        "images": len(split),
        "captions": num_captions,
        "truncated_captions": num_truncated,
        "fingerprint": split.fingerprint(),
    }


class Restored(NamedTuple):
    """What a checkpoint rebuilds without further settings.

    Attributes:
        checkpoint: the file it came from.
        config: the resolved config of its run, with the changes asked for.
    """

    checkpoint: Path
    config: DictConfig
    model: MiniCLIP
    tokenizer: Tokenizer

    def datasets(self) -> tuple[CaptionedImages, CaptionedImages]:
        """The training and the validation data set of the run."""
        return make(self.config, "data").datasets()

    def loss(self) -> typing.Callable[..., torch.Tensor]:
        """The loss of the run."""
        return make(self.config, "loss")


def restore(path: Path, *changes: str) -> Restored:
    """Rebuild the model of a run directory (its best checkpoint) or of a checkpoint, on the CPU.

    A config can name any function to call, so from a file only MiniCLIP's own parts are made.

    Args:
        path: of the run directory or checkpoint.
        changes: "data.root=/elsewhere" and the like; "data=NAME" takes another data set with its defaults.

    Raises:
        UserError: when there is no whole checkpoint, or its config names anything else to make.
    """
    checkpoint_path = path / "checkpoints" / "best.pt" if path.is_dir() else path
    checkpoint = load_checkpoint(checkpoint_path)
    cfg = OmegaConf.create(checkpoint["config"])
    if any(change.startswith("data=") for change in changes):
        own = [change for change in changes if change.startswith(("data=", "data."))]
        seen = [f"image_size={cfg.image_size}", f"data.eval_crop={cfg.data.eval_crop}"]
        cfg.data = compose(*seen, f"seed={cfg.seed}", *own).data
        check_part(cfg, "data")
        changes = tuple(change for change in changes if change not in own)
    for change in changes:
        key, equals, _ = change.partition("=")
        if not equals or OmegaConf.select(cfg, key, default=...) is ...:
            raise UserError(
                f"{change}: the run has no setting {key}; give SETTING=VALUE, data.root=... say"
            )
    cfg.merge_with_dotlist(list(changes))
    assert isinstance(cfg, DictConfig)
    makers = (miniclip.data, miniclip.losses, miniclip.models)
    safe = {f"{module.__name__}.{name}" for module in makers for name in module.__all__}
    for part in ("data", "encoder", "projection", "temperature", "loss"):
        for place in _targets(cfg, part):
            target = OmegaConf.select(cfg, f"{place}._target_")
            if target not in safe:
                raise UserError(
                    f"{checkpoint_path}: its config wants to call {target} as {place}; refused."
                )
    if "weights" in cfg.encoder.image:
        cfg.encoder.image.weights = None  # the checkpoint holds them
    tokenizer = Tokenizer.from_state(checkpoint["tokenizer"])
    model = make_model(cfg, vocab_size=tokenizer.vocab_size)
    load_model(model, checkpoint, checkpoint["config"])
    return Restored(checkpoint_path, cfg, model.to(memory_format=torch.channels_last).eval(), tokenizer)


def check(cfg: DictConfig) -> None:
    """Find wrong settings before any data is read.

    Keys and types are held against the signatures; then every part is made on a device without
    memory, so that each says itself what it does not allow.

    Raises:
        UserError: names the setting, its value, what is allowed and how to change it.
    """
    for key, expected in ROOT_TYPES.items():
        _check_type(cfg, key, _select(cfg, key), expected)
    for path in _targets(cfg):
        _check_signature(cfg, path)
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # what is worth saying is said when the parts are made
        make_model(cfg, vocab_size=1)
    trainer: Trainer = make(cfg, "trainer")
    make_optimizer(cfg, torch.nn.Linear(1, 1, device=trainer.device))
    for part in ("data", "tokenizer", "loss", "schedule", "logger", "eval"):
        make(cfg, part)


def check_part(cfg: DictConfig, part: str) -> None:
    """Find wrong settings of one part; see `check`."""
    for path in _targets(cfg, part):
        _check_signature(cfg, path)
    make(cfg, part)


class SweepKeeper(Callback):
    """Hydra callback: checks all jobs of a sweep before the first one starts, tells last what failed.

    Of a sweep by Optuna it checks every value of each axis once.
    """

    sweep: Sweep

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        overrides = list(config.hydra.overrides.task)
        for key, values in (OmegaConf.select(config, "hydra.sweeper.params") or {}).items():
            if not any(override.startswith(f"{key}=") for override in overrides):
                overrides.append(f"{key}={values}")
        loader = GlobalHydra.instance().config_loader()
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
        is_search = config.hydra.sweeper._target_ == OPTUNA
        where = ""
        try:
            _require_plugins(config)
            jobs = (
                settings_to_check(parsed)
                if is_search
                else BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
            )
            keys: dict[str, str] = {}
            for job in jobs:
                where = f"job {' '.join(job)}: "
                cfg = loader.load_configuration(
                    config.hydra.job.config_name, overrides=list(job), run_mode=RunMode.RUN
                )
                check(cfg)
                with open_dict(cfg):
                    del cfg["hydra"]
                key = job_key(typing.cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True)))
                twin = keys.setdefault(key, where)
                if twin != where and not is_search:
                    raise UserError(
                        f"computes the same as {twin}they differ in names, places or speed only. Leave "
                        "one out; data in folders of one name can be given by relative paths."
                    )
            where = ""
            self.sweep = Sweep(Path(config.hydra.sweep.dir))
            self.sweep.claim([search_key(overrides)] if is_search else list(keys))
        except (UserError, HydraException) as error:
            # Hydra turns a callback's exceptions into warnings, but lets this one end the program
            sys.exit(f"Error: {where}{error}")

        atexit.register(self._tell)  # a launcher whose worker dies ends the program before on_multirun_end

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.unregister(self._tell)
        if not self._tell():
            sys.exit(1)

    def _tell(self) -> bool:
        """Print what came of the sweep. Returns whether all its jobs are completed."""
        self.sweep.write_summary()
        print(f"\nThe sweep's table: {self.sweep.path / 'summary.md'}")
        if list(self.sweep.path.glob("*/wandb/offline-run-*")):
            print(f"Upload it to Weights & Biases: wandb sync {self.sweep.path}/*/wandb/offline-run-*")
        failures = self.sweep.failures()
        if failures:
            print("\n".join([f"{len(failures)} jobs are not completed:", *failures]), file=sys.stderr)
        return not failures


def _require_plugins(config: DictConfig) -> None:
    """Refuse a launcher or sweeper that is not installed."""
    for part, module in (("launcher", None), ("sweeper", "optuna")):
        target: str = config.hydra[part]._target_
        if target != OPTUNA:
            module = ".".join(target.split(".")[:2])
        assert module is not None
        if not _is_installed(module):
            name = config.hydra.runtime.choices[f"hydra/{part}"]
            extra = "ray" if name == "ray" else "sweeps"
            raise UserError(f'hydra/{part}={name} needs more: pip install -e ".[{extra}]"')


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor is the package it is a part of
        return False


def make(cfg: DictConfig, part: str) -> Any:
    """The part at a place of the config, "data" say; a `_partial_` one lacks its run-time values."""
    node = _select(cfg, part)
    if "_target_" not in node:
        raise UserError(
            f"The option chosen for {part} is only a part of others; choose another: {part}=..."
        )
    with _names_of(cfg, part):
        return hydra.utils.instantiate(node, _convert_="all")


def make_model(cfg: DictConfig, *, vocab_size: int) -> MiniCLIP:
    """Towers, projection and temperature."""
    return MiniCLIP(
        image_encoder=make(cfg, "encoder.image"),
        text_encoder=_call(cfg, "encoder.text", vocab_size=vocab_size),
        projection=make(cfg, "projection"),
        temperature=make(cfg, "temperature"),
    )


def make_optimizer(cfg: DictConfig, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer over the model's parameter groups."""
    target = hydra.utils.get_object(cfg.optimizer._target_)
    extra = {"model": model} if inspect.isclass(target) and issubclass(target, SAM) else {}
    optimizer = _call(cfg, "optimizer", parameter_groups(model), **extra)
    scale_learning_rates(optimizer)
    return optimizer


def make_precision(cfg: DictConfig, trainer: Trainer) -> Precision:
    """Autocast and scaler for the trainer's device."""
    return _call(cfg, "precision", device=trainer.device)


def _call(cfg: DictConfig, part: str, *args: Any, **kwargs: Any) -> Any:
    """Complete a `_partial_` part with what is known only at run time."""
    factory = make(cfg, part)
    with _names_of(cfg, part):
        return factory(*args, **kwargs)


@contextmanager
def _names_of(cfg: DictConfig, part: str) -> Iterator[None]:
    """Turn a part's errors into ones that name settings as the user types them."""
    try:
        yield
    except Exception as raised:
        error = raised.__cause__ if isinstance(raised, InstantiationException) else raised
        if isinstance(error, SettingError):
            name = _full_name(cfg, part, error.setting)
            raise SettingError(name, error.value, error.allowed) from None
        if isinstance(error, UserError):
            raise error from None
        if isinstance(error, ValueError | TypeError):
            raise UserError(f"{part}: {error}. Change its settings, {part}.*") from error
        raise


def _full_name(cfg: DictConfig, part: str, setting: str) -> str:
    """The setting's place below a part; if its value comes from elsewhere, that place."""
    unresolved = OmegaConf.to_container(cfg, resolve=False)
    for path, value in _leaves(unresolved):
        if path.startswith(f"{part}.") and path.rsplit(".", 1)[-1] == setting:
            if isinstance(value, str) and value.startswith("${") and value.endswith("}"):
                return value[2:-1]
            return path
    return f"{part}.{setting}"


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _targets(cfg: DictConfig, part: str = "") -> list[str]:
    """Places below a part, or anywhere, that name something to make."""
    leaves = _leaves(OmegaConf.to_container(cfg, resolve=False))
    places = [path.removesuffix("._target_") for path, _ in leaves if path.endswith("._target_")]
    return [place for place in places if not part or place == part or place.startswith(f"{part}.")]


def _check_signature(cfg: DictConfig, path: str) -> None:
    """Hold a part's keys and values against the signature of its target."""
    node = _select(cfg, path)
    try:
        target = hydra.utils.get_object(node._target_)
    except Exception as error:
        raise SettingError(f"{path}._target_", node._target_, f"cannot be found ({error})") from None
    parameters, hints = _parameters(target)
    for key in node:
        if key in ("_target_", "_partial_"):
            continue
        if key not in parameters:
            near = difflib.get_close_matches(str(key), parameters, n=1)
            hint = f" Did you mean {path}.{near[0]}?" if near else ""
            raise UserError(
                f"{path}.{key} is no setting of {node._target_}.{hint} It has: {', '.join(parameters)}."
            )
        value = _select(cfg, f"{path}.{key}")
        if node._target_.startswith("miniclip."):
            _check_type(cfg, f"{path}.{key}", value, hints.get(str(key), Any))


def _parameters(target: Any) -> tuple[list[str], dict[str, Any]]:
    """Names and types of what a function or class takes; `**settings` are those of the base class."""
    functions = (
        [vars(base)["__init__"] for base in target.__mro__ if "__init__" in vars(base)]
        if (inspect.isclass(target))
        else [target]
    )
    names: dict[str, None] = {}
    hints: dict[str, Any] = {}
    for function in functions:
        parameters = inspect.signature(function).parameters.values()
        names |= dict.fromkeys(
            p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "self"
        )
        hints = typing.get_type_hints(function) | hints
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return list(names), hints


def _select(cfg: DictConfig, path: str) -> Any:
    try:
        return OmegaConf.select(cfg, path, throw_on_missing=True)
    except OmegaConfBaseException as error:
        if OmegaConf.is_missing(OmegaConf.select(cfg, path.rpartition(".")[0]), path.rpartition(".")[2]):
            raise UserError(f"{path} is needed: give {path}=...") from None
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from None


def _check_type(cfg: DictConfig, path: str, value: Any, hint: Any) -> None:
    if not _fits(value, hint):
        part, _, setting = path.rpartition(".")
        name = _full_name(cfg, part, setting) if part else path
        raise SettingError(name, repr(value), f"must be {_described(hint)}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a config value may stand for a type; types a config cannot hold fit everything."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is Sequence or hint is Sequence:
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        return is_list and all(_fits(item, *arguments) for item in value)
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    # a node of its own, checked by itself
    return hint is Any or isinstance(value, Mapping)


def _described(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_described(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is Sequence:
        return f"a list, each {_described(arguments[0])}"
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    return "null" if hint is type(None) else names.get(hint, "a part with a _target_")
