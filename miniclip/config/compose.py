"""Composing the config from its files and from what was typed, of which nothing may be unknown."""

import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from miniclip.config.groups import CONF, HOME, content_of, groups
from miniclip.config.hints import explained, is_named
from miniclip.config.hydra_internals import config_of_run, forget_option
from miniclip.config.launchers import register_launchers
from miniclip.config.optuna_sweeper import register_optuna
from miniclip.config.refusals import refuse_misspelled
from miniclip.config.typed_words import as_hydra_reads, unreadable
from miniclip.errors import SettingError, UserError, first_line, without_secrets
from miniclip.files import flatten
from miniclip.renamed import renamed_words

log = logging.getLogger(__name__)

OF_ANOTHER = re.compile(r"\$\{\w[\w.]*\}")
"""A value that is another setting's: ${embed_dim}."""

NO_FOLDER_NAME = re.compile(r'[<>:"\\|?*\x00-\x1f]')
"""Characters that Windows takes in no name of a folder."""

LONGEST_NAME = 80
"""Letters of a folder's name that say what a job was told."""


def compose(*words: str) -> DictConfig:
    """The config of `python run.py OVERRIDES`, for use from Python.

    Raises:
        UserError: when an override names nothing that exists; says what was meant.
    """
    typed, lines = renamed_words(words)
    for line in lines:
        log.warning("%s", line)

    prepare_hydra()
    refuse_misspelled(typed)
    overrides = as_hydra_reads(typed)
    with hydra.initialize_config_dir(str(HOME / "conf"), version_base="1.3"):
        try:
            cfg = hydra.compose("config", overrides=overrides)
        except HydraException as error:
            raise UserError(what_is_wrong(error, typed)) from None
        refuse_unknown(cfg, overrides)
        refuse_unresolved(cfg)
        tell_without_effect(cfg, typed)
    return cfg


def what_is_wrong(error: Exception, words: Sequence[str], *, sweeps: bool = False) -> str:
    """An error of Hydra or ours as the user is told it.

    Args:
        sweeps: whether several values can be a sweep where the words were typed.
    """
    if isinstance(error, UserError):
        return without_secrets(str(error))
    if isinstance(error, OverrideParseException) and error.__cause__ is None:  # none of a function's own
        return without_secrets(unreadable(error.override))

    told = " ".join(explained(str(error), words, sweeps=sweeps).split())  # in one line
    if isinstance(error, OverrideParseException):
        word = error.override
        told = f"{word}: " + told.removeprefix(f"Error parsing override '{word}' ")
    return without_secrets(told)


def prepare_hydra() -> None:
    """What conf/config.yaml refers to."""
    os.environ["MINICLIP_HOME"] = str(HOME)
    OmegaConf.register_new_resolver("product", lambda *factors: math.prod(factors), replace=True)
    OmegaConf.register_new_resolver("options", lambda group: ", ".join(groups()[group]), replace=True)
    OmegaConf.register_new_resolver("short_overrides", short_overrides, replace=True)
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
    register_optuna()
    register_launchers()
    # conf/hydra/launcher/ stands in for the launchers' own options, which are found by the same names
    for path in (HOME / "conf" / "hydra" / "launcher").glob("*.yaml"):
        forget_option("hydra", "launcher", path.name)


def refuse_unknown(cfg: DictConfig, words: Sequence[str], config_name: str = "config") -> None:
    """Refuse keys of a user's own file, and those that were added by + or ++, that no part reads.

    What the files alone compose is what exists; beyond that, parts with a `_target_` may be given any
    setting that their signature has, which `miniclip.config.build.check` looks at.

    Raises:
        UserError: names the key, and the one that was meant.
    """
    files = [word for word in words if not word.startswith("+")]
    # without such words Hydra itself refuses to override what is not there
    known = cfg if len(files) == len(words) else config_of_run(config_name, files)
    for added in _added(_plain(cfg), _plain(known)):
        typed = (word.partition("=")[0].lstrip("+") for word in words)
        path = next((key for key in typed if key.startswith(f"{added}.")), added)
        raise _no_setting(path, words)
    for path in _unread(cfg):
        raise _no_setting(path, words)


def _no_setting(path: str, words: Sequence[str]) -> UserError:
    return UserError(f"{path} is no setting, and no part reads it.{is_named(path, words)}")


def refuse_unresolved(cfg: DictConfig) -> None:
    """Refuse a value that is to come from elsewhere, where there is none: ${oc.env:NAME}.

    Raises:
        SettingError: names the setting.
    """
    for path, value in flatten(_plain(cfg)).items():
        # the check of the values looks at those that are another setting's
        if not isinstance(value, str) or "${" not in value or OF_ANOTHER.fullmatch(value):
            continue
        try:
            OmegaConf.select(cfg, path)
        except OmegaConfBaseException as error:
            raise SettingError(path, value, first_line(error)) from None


def tell_without_effect(cfg: DictConfig, words: Sequence[str]) -> None:
    """Tell of a crop_scale that was typed beside a crop which does not read it.

    Files may hold both, as data sets have a crop_scale of their own; so may a sweep over crops.
    """
    crop = OmegaConf.select(cfg, "data.crop")
    for word in words:
        if word.lstrip("+").startswith("data.crop_scale=") and crop in ("shifted", "eval"):
            log.warning("%s has no effect with data.crop=%s: only data.crop=resized reads it.", word, crop)


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    plain.pop("hydra", None)
    return plain


def _unread(cfg: DictConfig) -> list[str]:
    """Paths of no part and of nothing in conf/config.yaml, whose value no other setting has as ${path}.

    Names of folders may have it: hydra.run.dir=outputs/${tag}. Roots with an underscore help a study.
    """
    of_hydra = HydraConfig.instance().cfg if HydraConfig.initialized() else None
    settings = str([OmegaConf.to_container(each, resolve=False) for each in (cfg, of_hydra) if each])

    def is_read(path: str) -> bool:
        return re.search(rf"\$\{{\.*{re.escape(path)}[.\[}}]", settings) is not None

    found = _beside_parts(_plain(cfg))
    # `HELPER` of miniclip.runs.job_key, which brings torch
    return [path for path in found if not path.startswith("_") and not is_read(path)]


def _beside_parts(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Paths below a node that are neither parts nor hold parts, nor stand in conf/config.yaml."""
    parts = [group.replace("/", ".") for group in groups()]
    for key, value in node.items():
        path = f"{prefix}{key}"
        if any(part.startswith(f"{path}.") for part in parts) and path not in parts:
            yield from _beside_parts(value, f"{path}.") if isinstance(value, dict) else ()
        elif path not in parts and path not in content_of(CONF / "config.yaml"):
            yield path


def _added(node: dict[str, Any], known: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Paths below a node that are not known, but for the settings of parts."""
    for key, value in node.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if key not in known:
            if "_target_" not in node:
                yield path
        elif isinstance(value, dict) and isinstance(known[key], dict):
            yield from _added(value, known[key], path)


def tell_jobs_what_is_swept(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Enter the settings that have several values into the config that each job of a sweep begins with.

    Hydra composes a job from its own overrides and from Hydra's, `hydra.*`, of the sweep; tried with 1.3.
    """
    keys = [override.key_or_group for override in overrides if override.is_sweep_override()]
    quoted = ",".join(f"'{key}'" for key in keys)
    with read_write(config.hydra.overrides):
        config.hydra.overrides.hydra.append(f"hydra.callbacks.keep_sweep.swept=[{quoted}]")


def short_overrides(overrides: Sequence[str], swept: Sequence[str] = ()) -> str:
    """A job's overrides as a folder name: `rho=0.05,seed=0`. No paths, 80 letters or less.

    Args:
        overrides: of the job.
        swept: settings that have several values in the sweep; they come first and are left out last.
    """
    first: list[str] = []
    others: list[str] = []
    for override in overrides:
        key, _, value = override.partition("=")
        if "/" in value:
            continue
        key = key.lstrip("+")
        value = value.strip("'\"")
        (first if key in swept else others).append(f"{key.rpartition('.')[2]}={value}")

    while others and len(",".join(first + others)) > LONGEST_NAME and len(first + others) > 1:
        others.pop(0)
    name = re.sub(r"[^\w.,=-]", "-", ",".join(first + others))[:LONGEST_NAME]
    return name.strip(",.") or "default"  # Windows takes no dot at the end of a name


def folder_name(name: object) -> str:
    """A run's name as a folder that every system can make: `a:b` is `a-b`, and / begins a folder inside.

    The same on all systems, so that a run keeps its name when its folder moves to another.
    """
    folders = NO_FOLDER_NAME.sub("-", str(name)).split("/")
    # Windows drops dots and spaces at the end of a name
    return "/".join(folder if folder in (".", "..") else folder.rstrip(". ") for folder in folders)
