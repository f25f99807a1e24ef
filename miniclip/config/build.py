"""From config to objects: the only module that knows Hydra and OmegaConf, beside the command line."""

import atexit
import difflib
import importlib.util
import logging
import math
import re
import shlex
import sys
import typing
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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

from miniclip.config.compose import refuse_unknown, what_is_wrong
from miniclip.config.hints import SEVERAL, groups, is_named, refuse_misspelled
from miniclip.config.optuna_sweeper import OPTUNA, settings_to_check
from miniclip.data import DataSource, ImageTextDataset, Split
from miniclip.data.eval_preprocessing import EvalPreprocessing
from miniclip.errors import SettingError, UserError, counted
from miniclip.models import HFTextModel, MiniCLIP
from miniclip.models.image_encoder import preprocessing_of
from miniclip.optim import PassOptimizer, as_pass_optimizer, parameter_groups, scale_learning_rates
from miniclip.preprocessing import MEAN, STD, Preprocessing
from miniclip.provenance import sign
from miniclip.runs import JsonlLogger, RunDirectory
from miniclip.runs.job_key import job_key, search_key
from miniclip.runs.sweep import Sweep
from miniclip.signature import described, fits, signature_of
from miniclip.tokenizers import Tokenizer
from miniclip.training import Precision, Trainer, TrainingSetup
from miniclip.training.changed_settings import TRAINED_PARTS
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

PARTS = (*TRAINED_PARTS, "eval", "logger")
"""What every run is made of."""

MAX_SEED = 2**32 - 1
"""NumPy takes no larger one, and a multiple of it and of an epoch must fit torch's 64 bits."""

NOT_FINITE = re.compile(r"[+-]?\.?(inf|infinity|nan)", re.IGNORECASE)


def build(cfg: DictConfig, run: RunDirectory) -> tuple[Trainer, TrainingSetup, JsonlLogger]:
    """Make every part of a run, and write what identifies it into its directory.

    Raises:
        UserError: when a setting or a file is wrong; nothing has been trained yet.
    """
    check(cfg)
    config = typing.cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    run.write_config(OmegaConf.to_yaml(cfg, resolve=True))
    trainer: Trainer = make(cfg, "trainer")
    source: DataSource = make(cfg, "data")
    with names_of(cfg, "data"):
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
    experiment = TrainingSetup(
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
        preprocessing=_preprocessing(cfg, model),
        signature=sign(config["data"]),
    )
    run.write_environment(trainer.device, facts)
    return trainer, experiment, make(cfg, "logger")


def _preprocessing(cfg: DictConfig, model: MiniCLIP) -> dict[str, Any]:
    """What an image needs before the model sees it, for the checkpoint; what the weights saw is told."""
    wanted = preprocessing_of(model.image_encoder)
    unlike = unlike_the_run(wanted, eval_crop=cfg.data.eval_crop)
    if unlike:
        log.info("The image tower's weights saw other images than this run's: %s.", "; ".join(unlike))
    size, crop = cfg.data.image_size, cfg.data.eval_crop
    return EvalPreprocessing(size, crop=crop, trained_with=wanted).state()


def unlike_the_run(wanted: Preprocessing, *, eval_crop: str) -> list[str]:
    """In what the images that weights were trained with differ from a run's, a phrase each."""
    found = []
    if (wanted.mean, wanted.std) != (MEAN, STD):
        found.append(f"mean {list(wanted.mean)} and deviation {list(wanted.std)}, which are applied")
    if wanted.interpolation not in (None, "bicubic"):
        found.append(f"{wanted.interpolation} interpolation, where this run has bicubic")
    if wanted.crop_fraction is not None and (wanted.crop_fraction, eval_crop) != (1.0, "center"):
        crop = f"a center crop of {wanted.crop_fraction:.3g} of the side"
        found.append(f"{crop}, where this run has data.eval_crop={eval_crop}")
    return found


def _facts(split: Split, tokenizer: Tokenizer) -> dict[str, Any]:
    """What a run's environment.json says of a split; its captions are encoded on the way."""
    num_truncated = tokenizer.precompute(caption for own in split.captions for caption in own)
    num_captions = int(split.captions.counts.sum())
    if num_truncated:
        log.warning(
            "Of %s (%s) %d longer than context_length=%d tokens, cut off there.",
            counted(num_captions, "caption"),
            split.name,
            num_truncated,
            tokenizer.context_length,
        )
    return {
        "images": len(split),
        "captions": num_captions,
        "truncated_captions": num_truncated,
        "fingerprint": split.fingerprint(),
    }


def check(cfg: DictConfig) -> None:
    """Find wrong settings before any data is read.

    Keys and types are held against the signatures; then every part is made on a device without
    memory, so that each says itself what it does not allow.

    Raises:
        UserError: names the setting, its value, what is allowed and how to change it.
    """
    for key, expected in ROOT_TYPES.items():
        _check_type(cfg, key, _select(cfg, key), expected)
    if not 0 <= cfg.seed <= MAX_SEED:
        raise SettingError("seed", cfg.seed, f"must lie between 0 and {MAX_SEED}")
    _check_groups(cfg)
    for path in _targets(cfg):
        _check_signature(cfg, path)
    _check_finite(cfg)
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # what is worth saying is said when the parts are made
        make_model(cfg, vocab_size=1)
    trainer: Trainer = make(cfg, "trainer")
    with trainer.device:
        sample = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.LayerNorm(1))
    make_optimizer(cfg, sample)
    for part in ("data", "tokenizer", "loss", "schedule", "logger", "eval"):
        make(cfg, part)


def check_part(cfg: DictConfig, part: str) -> None:
    """Find wrong settings of one part; see `check`."""
    for path in _targets(cfg, part):
        _check_signature(cfg, path)
    make(cfg, part)


def _check_groups(cfg: DictConfig) -> None:
    """Hold every group against what an option of it makes: a part."""
    for group in groups():
        place = group.replace("/", ".")
        parent, _, name = place.rpartition(".")
        holder = OmegaConf.select(cfg, parent) if parent else cfg
        if group in SEVERAL or group.startswith(("hydra/", "experiments")):
            continue
        if place in PARTS or name in (holder or {}):
            _check_is_part(cfg, group)


def _check_is_part(cfg: DictConfig, group: str) -> None:
    place = group.replace("/", ".")
    value = _select(cfg, place)
    if isinstance(value, DictConfig) and "_target_" in value:
        return

    options = ", ".join(groups()[group])
    if isinstance(value, DictConfig):
        raise UserError(
            f"The option chosen for {group} is only a part of others; choose another: {group}=..."
        )
    if isinstance(value, str) and value in groups()[group]:
        raise UserError(f"{place}={value}: an option is chosen with {group}={value}")
    if value is None:
        instead = f"{group}=none" if "none" in groups()[group] else f"{group}=..."
        raise UserError(f"{group} cannot be left out; choose {instead}\nOptions: {options}")
    raise UserError(f"{place}={value}: must be an option; choose {group}=...\nOptions: {options}")


def _check_finite(cfg: DictConfig) -> None:
    """Refuse numbers that are not finite, however they are spelled; no setting means something by one."""
    for path, value in _leaves(OmegaConf.to_container(cfg, resolve=True)):
        for item in value if isinstance(value, list) else [value]:
            is_infinite = isinstance(item, float) and not math.isfinite(item)
            is_spelled = isinstance(item, str) and NOT_FINITE.fullmatch(item) and path != "name"
            if is_infinite or is_spelled:
                part, _, setting = path.rpartition(".")
                raise SettingError(_full_name(cfg, part, setting), value, "must be a finite number")


class SweepGuard(Callback):
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
                where = f"job {shlex.join(job)}: "
                name = config.hydra.job.config_name
                refuse_misspelled(job)
                cfg = loader.load_configuration(name, overrides=list(job), run_mode=RunMode.RUN)
                refuse_unknown(cfg, job, name)
                with open_dict(cfg):
                    del cfg["hydra"]
                check(cfg)
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
        except (UserError, HydraException, OmegaConfBaseException) as error:
            # Hydra turns a callback's exceptions into warnings, but lets this one end the program
            sys.exit(f"Error: {where}{what_is_wrong(error, overrides)}")

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
            folder = shlex.quote(str(self.sweep.path))
            print(f"Upload it to Weights & Biases: wandb sync {folder}/*/wandb/offline-run-*")
        failures = self.sweep.failures()
        if failures:
            print(
                "\n".join([f"{counted(len(failures), 'job')} not completed:", *failures]), file=sys.stderr
            )
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
    if part.replace(".", "/") in groups():
        _check_is_part(cfg, part.replace(".", "/"))
    with names_of(cfg, part):
        return hydra.utils.instantiate(node, _convert_="all")


def read_data(cfg: DictConfig) -> tuple[ImageTextDataset, ImageTextDataset]:
    """The training and the validation data set of a config."""
    source: DataSource = make(cfg, "data")
    with names_of(cfg, "data"):
        return source.datasets()


def make_model(cfg: DictConfig, *, vocab_size: int) -> MiniCLIP:
    """Towers, projection and temperature."""
    return MiniCLIP(
        image_encoder=make(cfg, "encoder.image"),
        text_encoder=_call(cfg, "encoder.text", vocab_size=vocab_size),
        projection=make(cfg, "projection"),
        temperature=make(cfg, "temperature"),
    )


def make_optimizer(cfg: DictConfig, model: torch.nn.Module) -> PassOptimizer:
    """The optimizer over the model's parameter groups."""
    settings, _ = signature_of(hydra.utils.get_object(cfg.optimizer._target_))
    extra = {"model": model} if "model" in settings else {}
    optimizer = _call(cfg, "optimizer", parameter_groups(model), **extra)

    scale_learning_rates(optimizer)
    return as_pass_optimizer(optimizer)


def make_precision(cfg: DictConfig, trainer: Trainer) -> Precision:
    """Autocast and scaler for the trainer's device."""
    return _call(cfg, "precision", device=trainer.device)


def _call(cfg: DictConfig, part: str, *args: Any, **kwargs: Any) -> Any:
    """Complete a `_partial_` part with what is known only at run time."""
    factory = make(cfg, part)
    with names_of(cfg, part):
        return factory(*args, **kwargs)


@contextmanager
def names_of(cfg: DictConfig, part: str) -> Iterator[None]:
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
        lacking = re.search(r"missing .* arguments?: '(\w+)'", str(error))
        if isinstance(error, TypeError) and lacking:
            raise UserError(f"{part}.{lacking[1]} is needed: give {part}.{lacking[1]}=...") from error
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
    parameters, hints = signature_of(target)
    for key in node:
        if key in ("_target_", "_partial_"):
            continue
        if key not in parameters:
            near = difflib.get_close_matches(str(key), parameters, n=1)
            hint = f" Did you mean {path}.{near[0]}?" if near else is_named(f"{path}.{key}")
            raise UserError(
                f"{path}.{key} is no setting of {node._target_}.{hint} It has: {', '.join(parameters)}."
            )
        value = _select(cfg, f"{path}.{key}")
        if node._target_.startswith("miniclip.") or isinstance(value, str):
            _check_type(cfg, f"{path}.{key}", value, hints.get(str(key), Any))


def _select(cfg: DictConfig, path: str) -> Any:
    try:
        return OmegaConf.select(cfg, path, throw_on_missing=True)
    except OmegaConfBaseException as error:
        if OmegaConf.is_missing(OmegaConf.select(cfg, path.rpartition(".")[0]), path.rpartition(".")[2]):
            raise UserError(f"{path} is needed: give {path}=...") from None
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from None


def _check_type(cfg: DictConfig, path: str, value: Any, hint: Any) -> None:
    if not fits(value, hint):
        part, _, setting = path.rpartition(".")
        name = _full_name(cfg, part, setting) if part else path
        raise SettingError(name, repr(value), f"must be {described(hint)}")
