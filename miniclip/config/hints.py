"""What to tell of a setting that does not exist: the name that the user meant."""

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.conf import HydraConf

from miniclip.errors import HOW_TO_LOG_IN, SettingError, UserError, without_secrets

PACKAGE = Path(__file__).resolve().parent.parent
# a checkout has conf/ and experiments/ beside the package, an installed wheel inside it
HOME = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parent
CONF = HOME / "conf"

PASSWORD_IN_URL = re.compile(r"://[^/\s]+@")

COMMON_NAMES = {
    # training
    "lr": "optimizer.base.lr",
    "learning_rate": "optimizer.base.lr",
    "base_lr": "optimizer.base.lr",
    "max_lr": "optimizer.base.lr",
    "wd": "optimizer.base.weight_decay",
    "weight_decay": "optimizer.base.weight_decay",
    "betas": "optimizer.base.betas",
    "eps": "optimizer.base.eps",
    "base": "optimizer/base",
    "base_optimizer": "optimizer/base",
    "opt": "optimizer",
    "optim": "optimizer",
    "rho": "optimizer.rho",
    "sam_rho": "optimizer.rho",
    "adaptive": "optimizer.adaptive",
    "epoch": "trainer.budget.epochs",
    "epochs": "trainer.budget.epochs",
    "num_epochs": "trainer.budget.epochs",
    "n_epochs": "trainer.budget.epochs",
    "max_epochs": "trainer.budget.epochs",
    "steps": "trainer.budget.steps",
    "num_steps": "trainer.budget.steps",
    "max_steps": "trainer.budget.steps",
    "iterations": "trainer.budget.steps",
    "minutes": "trainer.budget.minutes",
    "max_time": "trainer.budget.minutes",
    "forward_passes": "trainer.budget.forward_passes",
    "bs": "trainer.batch_size",
    "batch": "trainer.batch_size",
    "batch_size": "trainer.batch_size",
    "train_batch_size": "trainer.batch_size",
    "accum": "trainer.accumulate_steps",
    "accum_freq": "trainer.accumulate_steps",
    "accumulate_steps": "trainer.accumulate_steps",
    "grad_accum": "trainer.accumulate_steps",
    "gradient_accumulation_steps": "trainer.accumulate_steps",
    "accumulate_grad_batches": "trainer.accumulate_steps",
    "grad_clip": "trainer.grad_clip_norm",
    "grad_clip_norm": "trainer.grad_clip_norm",
    "clip_grad": "trainer.grad_clip_norm",
    "max_grad_norm": "trainer.grad_clip_norm",
    "gradient_clip_val": "trainer.grad_clip_norm",
    "workers": "trainer.num_workers",
    "num_workers": "trainer.num_workers",
    "resume": "trainer.resume",
    "resume_from": "trainer.resume",
    "checkpoint": "trainer.resume",
    "ckpt": "trainer.resume",
    "ckpt_path": "trainer.resume",
    "save_every": "trainer.checkpoint_every_epochs",
    "val_every": "trainer.validate_every_epochs",
    "warmup": "schedule.warmup_fraction",
    "warmup_steps": "schedule.warmup_fraction",
    "warmup_epochs": "schedule.warmup_fraction",
    "warmup_fraction": "schedule.warmup_fraction",
    "scheduler": "schedule",
    "lr_scheduler": "schedule",
    "lr_schedule": "schedule",
    "amp": "precision",
    "dtype": "precision",
    "fp16": "precision",
    "label_smoothing": "loss.label_smoothing",
    "criterion": "loss",
    # model
    "model": "encoder/image",
    "arch": "encoder/image",
    "architecture": "encoder/image",
    "backbone": "encoder/image",
    "encoder": "encoder/image",
    "image_encoder": "encoder/image",
    "image_model": "encoder/image",
    "vision_model": "encoder/image",
    "visual": "encoder/image",
    "text_encoder": "encoder/text",
    "text_model": "encoder/text",
    "text": "encoder/text",
    "attention": "encoder/text/attention",
    "attn": "encoder/text/attention",
    "k": "encoder.text.attention.k",
    "pretrained": "encoder.image.weights",
    "weights": "encoder.image.weights",
    "trainable": "encoder.image.trainable",
    "freeze": "encoder.image.trainable",
    "width": "encoder.text.width",
    "depth": "encoder.text.num_layers",
    "layers": "encoder.text.num_layers",
    "num_layers": "encoder.text.num_layers",
    "heads": "encoder.text.num_heads",
    "num_heads": "encoder.text.num_heads",
    "pooling": "encoder.text.pooling",
    "dropout": "encoder.text.dropout",
    "expansion": "projection.expansion",
    "proj": "projection",
    "mlp": "projection",
    "dim": "embed_dim",
    "embed_dim": "embed_dim",
    "embedding_dim": "embed_dim",
    "projection_dim": "embed_dim",
    "logit_scale": "temperature.initial_scale",
    "initial_scale": "temperature.initial_scale",
    "init_scale": "temperature.initial_scale",
    "temp": "temperature",
    "tau": "temperature",
    "vocab_size": "tokenizer.vocab_size",
    "max_length": "context_length",
    "max_len": "context_length",
    "seq_len": "context_length",
    # data
    "dataset": "data",
    "root": "data.root",
    "path": "data.root",
    "dir": "data.root",
    "data_dir": "data.root",
    "data_path": "data.root",
    "data_root": "data.root",
    "limit": "data.limit",
    "cache": "data.cache",
    "flip": "data.flip",
    "captions": "data.captions",
    "train_csv": "data.train_csv",
    "val_csv": "data.val_csv",
    "val_fraction": "data.val_fraction",
    "val_split": "data.val_fraction",
    "train_split": "data.train_split",
    "eval_split": "data.eval_split",
    "split": "data.eval_split",
    "size": "image_size",
    "img_size": "image_size",
    "im_size": "image_size",
    "input_size": "image_size",
    "resolution": "image_size",
    "image_size": "image_size",
    # the run
    "experiment": "experiments",
    "exp": "experiments",
    "config": "experiments",
    "recipe": "experiments",
    "gpu": "device",
    "gpus": "device",
    "cuda": "device",
    "accelerator": "device",
    "device": "device",
    "random_seed": "seed",
    "manual_seed": "seed",
    "run_name": "name",
    "experiment_name": "name",
    "output_dir": "hydra.run.dir",
    "out_dir": "hydra.run.dir",
    "out": "hydra.run.dir",
    "save_dir": "hydra.run.dir",
    "log_dir": "hydra.run.dir",
    "wandb": "logger",
    "project": "logger.project",
    "entity": "logger.entity",
    "every_steps": "logger.every_steps",
    "tasks": "eval/tasks",
}
"""Names that settings have elsewhere, or without their place, and where they are here."""


SEVERAL = ("eval/tasks",)
"""Groups of which several options can be chosen: 'eval/tasks=[retrieval,health]'."""


def groups() -> dict[str, list[str]]:
    """Every group of the config, `encoder/image` say, and its options."""
    found = {
        folder.relative_to(CONF).as_posix(): sorted(path.stem for path in folder.glob("*.yaml"))
        for folder in CONF.rglob("*")
        if folder.is_dir()
    }
    found["experiments"] = sorted(path.stem for path in (HOME / "experiments").glob("*.yaml"))
    return {group: options for group, options in found.items() if options and group != "data/base"}


def is_named(wrong: str, words: Sequence[str] = ()) -> str:
    """ " Did you mean SETTING?" for a key that does not exist, or nothing.

    Args:
        wrong: the key as it was typed.
        words: all that was typed, of which an option of a group is recognized: model=resnet50.
    """
    wrong = wrong.lstrip("+~").partition("@")[0]
    if wrong.startswith("hydra."):
        meant = _by_slash(wrong) or _of_hydra_like(wrong)
    else:
        meant = (
            _by_slash(wrong)
            or _by_value(wrong, words)
            or _by_common_name(wrong, words)
            or _by_likeness(wrong)
        )
    if not meant or meant == wrong:
        return ""
    value = _value(wrong, words)
    is_option = value in groups().get(meant, [])
    return f" Did you mean {meant}={value}?" if is_option else f" Did you mean {meant}?"


def option_like(group: str, wrong: str) -> str:
    """The option of a group that a wrong one is most like, or nothing."""
    options = groups().get(group, [])
    simple = {re.sub(r"[\W_]", "", option).lower(): option for option in options}
    word = re.sub(r"[\W_]", "", wrong).lower()
    if word in simple:
        return simple[word]
    starts = [option for short, option in simple.items() if word and short.startswith(word)]
    near = starts or [simple[short] for short in difflib.get_close_matches(word, simple, n=1, cutoff=0.5)]
    return near[0] if near else ""


def refuse_misspelled(words: Sequence[str]) -> None:
    """Refuse what Hydra takes for something else, before it does.

    Raises:
        UserError: names the word and what to type instead.
    """
    known = groups()
    for word in words:
        key, has_value, value = word.partition("=")
        group = key.lstrip("+").partition("@")[0]
        if not key:
            raise UserError(f'"{word}" names no setting; type SETTING=VALUE, or leave it out')
        _refuse_secrets(key.lstrip("+"), value)
        if key.startswith(("+hydra.", "++hydra.")):
            _refuse_unknown_of_hydra(key.lstrip("+"))
        if group in ("encoder", "hydra") and has_value:
            options = " or ".join(f"{group}/{part}=..." for part in ("image", "text"))
            hint = is_named(key, words) or (f" Choose {options}." if group == "encoder" else "")
            raise UserError(f"{word}: {group} has no options of its own.{hint}")
        if group not in known or group == "experiments" or not has_value:
            continue
        if value.lower() in ("null", "none", "", "false", "true") and value not in known[group]:
            instead = f"{group}=none" if "none" in known[group] else f"{group}=..."
            raise UserError(f"{word}: {group} cannot be left out; choose {instead}{_listed(known[group])}")
        if value.startswith("[") and group not in SEVERAL:
            raise UserError(f"{word}: takes one option, not a list{_listed(known[group])}")
        if re.fullmatch(r"[+-]?[\d.]+", value):
            raise UserError(f"{word}: is no option of {group}{_listed(known[group])}")


def _refuse_secrets(key: str, value: str) -> None:
    """Refuse passwords, before Hydra writes what was typed into the run directory.

    Raises:
        SettingError: names the setting, and not the password.
    """
    shown = without_secrets(value)
    is_hub = key == "data.hub" and not Path(value).exists()
    if shown == value or not (is_hub or PASSWORD_IN_URL.search(value)):
        return

    kept = "holds a password, and settings are written into files; leave it out"
    raise SettingError(key, shown, HOW_TO_LOG_IN if is_hub else kept)


def _refuse_unknown_of_hydra(key: str) -> None:
    """Refuse to add what Hydra does not read; without a + it refuses itself.

    Raises:
        UserError: names the key, and the one that was meant.
    """
    settings = dict(_settings_of_hydra())
    steps = key.split(".")
    above = (".".join(steps[:count]) for count in range(1, len(steps)))
    if key not in settings and not any(settings.get(place, False) for place in above):
        raise UserError(f"{key} is no setting of Hydra.{is_named(key)}")


def _settings_of_hydra(kind: Any = HydraConf, place: str = "hydra") -> Iterator[tuple[str, bool]]:
    """Hydra's own settings and parts, and whether any key may stand below them."""
    for name, hint in typing.get_type_hints(kind).items():
        path = f"{place}.{name}"
        yield path, hint is Any or typing.get_origin(hint) is dict
        if dataclasses.is_dataclass(hint):
            yield from _settings_of_hydra(hint, path)


def _of_hydra_like(wrong: str) -> str:
    """Hydra's own setting that is spelled most alike."""
    known = [path for path, _ in _settings_of_hydra()]
    return "".join(difflib.get_close_matches(wrong, known, n=1, cutoff=0.7))


def explained(message: str, words: Sequence[str] = ()) -> str:
    """What Hydra says of a wrong word, in our words and with the right spelling."""
    key = re.search(r"Could not (?:override|delete) (?:from config\. )?'([^'=]+)(?:=[^']*)?'", message)
    if key:
        typed = _typed(key[1], words)
        if key[1] in _known_keys():
            group = key[1].rpartition(".")[0].replace(".", "/")
            if group.startswith("eval/tasks/"):
                task = group.rpartition("/")[2]
                return f"{typed}: the task {task} is not chosen; choose it with eval/tasks=[{task}]"
            return f"{typed}: the option chosen for {group} has no setting {key[1]}; others have."
        return f"{typed}: there is no setting {key[1]}.{is_named(key[1], words)}"
    option = re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'", message)
    if option:
        group, name = option[1], option[2]
        near = option_like(group, name)
        hint = f" Did you mean {group}={near}?" if near else ""
        elsewhere = [own for own, options in groups().items() if name in options]
        if not near and elsewhere:
            hint = f" Did you mean {elsewhere[0]}={name}?"
        return f"{group}={name}: there is no such option.{hint}{_listed(groups().get(group, []))}"
    twice = re.search(r"Multiple values for ([\w/]+)\. To override .*: ([^']+)'", message)
    if twice:
        return f"{twice[1]}={twice[2]} goes without a +, and can be given once."
    there = re.search(r"An item is already at '([^']+)'", message)
    if there:
        return f"{_typed(there[1], words)}: {there[1]} exists and goes without a +."
    # what Hydra says of its grammar ends with its documentation's address
    return message.partition("\nSee https://")[0]


def _listed(options: Sequence[str]) -> str:
    return f"\nOptions: {', '.join(options)}" if options else ""


def _typed(key: str, words: Sequence[str]) -> str:
    """The word that sets a key."""
    return next((word for word in words if _key(word) == key), key)


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _value(key: str, words: Sequence[str]) -> str:
    return next((word.partition("=")[2] for word in words if _key(word) == key), "")


def _by_slash(wrong: str) -> str:
    """encoder.image -> encoder/image."""
    slashed = wrong.replace(".", "/")
    return slashed if slashed in groups() else ""


def _by_value(wrong: str, words: Sequence[str]) -> str:
    """The group whose option follows a wrong name of a model: encoder=bag -> encoder/text."""
    if COMMON_NAMES.get(wrong) != "encoder/image":
        return ""
    value = _value(wrong, words)
    own = [
        group for group, options in groups().items() if value in options and group.startswith("encoder/")
    ]
    return own[0] if len(own) == 1 else ""


def _by_common_name(wrong: str, words: Sequence[str]) -> str:
    """The field's names, of which the last part counts: train.lr -> optimizer.base.lr."""
    last = re.split(r"[./]", wrong.lower().replace("-", "_"))[-1]
    meant = COMMON_NAMES.get(wrong, COMMON_NAMES.get(last, ""))
    group = meant.partition(".")[0]
    if "." in wrong and wrong.partition(".")[0] == group and meant == group:
        return ""  # data.dataset, say
    option = _value("optimizer", words)
    if meant.startswith("optimizer.base.") and option in groups()["optimizer/base"]:
        return meant.replace(".base.", ".")  # no wrapper
    return meant


def _by_likeness(wrong: str) -> str:
    """The known name that is spelled most alike; of a setting's place and its own name each for itself."""
    if "/" in wrong:
        return "".join(difflib.get_close_matches(wrong, groups(), n=1, cutoff=0.7))
    known = _known_keys()
    place, _, last = wrong.rpartition(".")
    siblings = [key for key in known if key.rpartition(".")[0] == place]
    for candidates in (siblings, known):
        near = difflib.get_close_matches(wrong, candidates, n=1, cutoff=0.7)
        if near:
            return near[0]
    names = {key.rpartition(".")[2]: key for key in reversed(known)}
    near = difflib.get_close_matches(last, names, n=1, cutoff=0.75)
    return names[near[0]] if near else ""


def _known_keys() -> list[str]:
    """Every setting and group of the config, whatever its options."""
    keys = set(groups())
    for path in CONF.rglob("*.yaml"):
        group = path.relative_to(CONF).parent.as_posix()
        if group == "data/base":  # parts of the options beside it
            group = "data"
        prefix = "" if group == "." else group.replace("/", ".") + "."
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        keys |= set(_paths(content, prefix))
    keys |= {group.replace("/", ".") for group in groups()}
    return sorted(keys)


def _paths(content: dict[str, object], prefix: str) -> Iterable[str]:
    for key, value in content.items():
        if key in ("defaults", "hydra") or key.startswith("_"):
            continue
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")
