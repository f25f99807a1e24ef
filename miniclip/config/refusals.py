"""Words that are refused before Hydra reads them, since it would take them for something else."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from miniclip.config.groups import HOME, SEVERAL, groups, optional_groups
from miniclip.config.hints import is_named, listed, settings_of_hydra
from miniclip.errors import (
    HOW_TO_LOG_IN,
    SettingError,
    UserError,
    holds_secret,
    is_name_of_secret,
    is_secret_variable,
    without_secrets,
)

KEPT = "holds a password or a key, and settings are written into files; leave it out"

OF_ENVIRONMENT = re.compile(r"\boc\.env:\s*(\w+)")
"""Settings that are looked up in the environment; the group is the variable's name."""

FOLDERS_OF_HYDRA = ("hydra.run.dir", "hydra.sweep.dir")

WANDB_SWEEPS = "experiments/wandb"
"""Directory of sweep definitions of Weights & Biases, below one that Hydra searches for experiments."""


def refuse_misspelled(words: Sequence[str]) -> None:
    """Refuse what Hydra takes for something else, before it does.

    Raises:
        UserError: names the word and what to type instead.
    """
    for word in words:
        key, has_value, value = word.partition("=")
        group = key.lstrip("+").partition("@")[0]
        if not key:
            raise UserError(f'"{word}" names no setting; type SETTING=VALUE, or leave it out')

        _refuse_secrets(key.lstrip("+"), value)
        _refuse_wandb_sweeps(word, group, value)
        if key.startswith(("+hydra.", "++hydra.")):
            _refuse_unknown_of_hydra(key.lstrip("+"))

        if key in FOLDERS_OF_HYDRA and not value.strip("'\""):
            raise UserError(f"{word}: names no folder, and a run would be written into this one; name it")

        if has_value:
            _refuse_parents(word, group, words)
            _refuse_no_option(word, group, value)


def _refuse_parents(word: str, group: str, words: Sequence[str]) -> None:
    """Refuse to choose an option of what only holds groups: encoder=vit_b_32.

    Raises:
        UserError: names the groups below it.
    """
    if group not in ("encoder", "hydra"):
        return

    hint = is_named(word.partition("=")[0], words)
    if not hint and group == "encoder":
        hint = " Choose encoder/image=... or encoder/text=..."
    raise UserError(f"{word}: {group} has no options of its own.{hint}")


def _refuse_no_option(word: str, group: str, value: str) -> None:
    """Refuse what is no name of an option where one is chosen: nothing, a list, a number.

    Raises:
        UserError: lists the options.
    """
    options = groups().get(group, [])
    if not options:
        return

    is_nothing = value.lower() in ("null", "none", "", "false", "true") or word == "logger=[]"
    if is_nothing and group in optional_groups():
        raise UserError(f"{word}: is no option; type '~{group}' to leave it out{listed(options)}")
    if is_nothing and value not in options:
        instead = f"{group}=none" if "none" in options else f"{group}=..."
        raise UserError(f"{word}: {group} cannot be left out; choose {instead}{listed(options)}")

    if group == "experiments":
        return

    if value.startswith("[") and group not in SEVERAL:
        raise UserError(f"{word}: takes one option, not a list{listed(options)}")

    if group == "logger" and "none" in re.findall(r"\w+", value) and value != "none":
        raise UserError(f"{word}: none goes alone; leave it out, and give logger.every_steps=null")

    if re.fullmatch(r"[+-]?[\d.]+", value):
        raise UserError(f"{word}: is no option of {group}{listed(options)}")


def _refuse_wandb_sweeps(word: str, group: str, value: str) -> None:
    """Refuse the sweep definitions of Weights & Biases, which Hydra would compose like experiments.

    Raises:
        UserError: says how the sweep is started.
    """
    if group not in ("experiments", WANDB_SWEEPS):
        return

    for option in value.strip("[]").split(","):
        name = option.strip().removesuffix(".yaml")
        file = f"{group}/{name}.yaml"
        if file.startswith(f"{WANDB_SWEEPS}/") and (HOME / file).is_file():
            raise UserError(f"{word}: is a sweep of Weights & Biases; start it with: wandb sweep {file}")


def refuse_secrets_of_files(node: Any, path: str = "") -> None:
    """Refuse passwords in a composed config, which the user's own files may have brought.

    Args:
        node: of the config, as plain data, interpolations not resolved.

    Raises:
        SettingError: names the setting, and not the password.
    """
    if isinstance(node, dict | list):
        for key, below in node.items() if isinstance(node, dict) else enumerate(node):
            refuse_secrets_of_files(below, f"{path}.{key}" if path else str(key))
    elif isinstance(node, str):
        _refuse_secrets(path, node)


def _refuse_secrets(key: str, value: str) -> None:
    """Refuse passwords and keys, before Hydra writes what was typed into the run directory.

    Raises:
        SettingError: names the setting, and not the password.
    """
    name = key.rpartition(".")[2]
    if value not in ("", "null") and is_name_of_secret(name):
        raise SettingError(key, "***", KEPT)
    for variable in OF_ENVIRONMENT.findall(value):
        if is_secret_variable(variable):
            raise SettingError(key, value, f"{variable} {KEPT}")

    shown = without_secrets(value)
    is_hub = key == "data.hub" and shown != value and not Path(value).exists()
    if is_hub or holds_secret(value):
        raise SettingError(key, shown, HOW_TO_LOG_IN if is_hub else KEPT)


def _refuse_unknown_of_hydra(key: str) -> None:
    """Refuse to add what Hydra does not read; without a + it refuses itself.

    Raises:
        UserError: names the key, and the one that was meant.
    """
    settings = dict(settings_of_hydra())
    steps = key.split(".")
    paths_above = [".".join(steps[:count]) for count in range(1, len(steps))]

    is_below_an_open_one = any(settings.get(path, False) for path in paths_above)
    if key not in settings and not is_below_an_open_one:
        raise UserError(f"{key} is no setting of Hydra.{is_named(key)}")
