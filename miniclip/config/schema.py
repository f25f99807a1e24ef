"""What a config may hold: types of the root keys, signatures of the parts, groups, finite numbers."""

import difflib
import inspect
import math
import re
import typing
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from miniclip.config.compose import OF_ANOTHER
from miniclip.config.groups import SEVERAL, groups
from miniclip.config.hints import is_named, not_chosen
from miniclip.errors import SettingError, UserError, first_line
from miniclip.files import flatten
from miniclip.pretrained.parts import ROOT_TYPES
from miniclip.signature import described, fits, named_freely, of_config, signature_of
from miniclip.training.changed_settings import TRAINED_PARTS

PARTS = (*TRAINED_PARTS, "eval", "logger")
"""What every run is made of."""

MAX_SEED = 2**32 - 1
"""NumPy takes no larger one, and a multiple of it and of an epoch must fit torch's 64 bits."""

SIZES = ("embed_dim", "image_size", "context_length")

MAX_SIZE = 2**29
"""Far beyond any model; the elements of a tensor of several such sides can still be counted."""

NOT_FINITE = re.compile(r"[+-]?\.?(inf|infinity|nan)", re.IGNORECASE)


def check_values(cfg: DictConfig) -> None:
    """Hold keys, types, groups and numbers against what they may be; nothing is made.

    Raises:
        UserError: names the setting, its value, what is allowed and how to change it.
    """
    for key, expected in ROOT_TYPES.items():
        _check_type(cfg, key, select(cfg, key), expected)

    if not 0 <= cfg.seed <= MAX_SEED:
        raise SettingError("seed", cfg.seed, f"must lie between 0 and {MAX_SEED}")

    for key in SIZES:
        if cfg[key] > MAX_SIZE:
            raise SettingError(key, cfg[key], f"must be at most {MAX_SIZE}")

    _check_groups(cfg)
    check_signatures(cfg)
    _check_finite(cfg)


def check_signatures(cfg: DictConfig, part: str = "") -> None:
    """Hold the settings of a part, or of all, against the signatures of what they make."""
    for path in _targets(cfg, part):
        _check_signature(cfg, path)


def _check_groups(cfg: DictConfig) -> None:
    """Hold every group against what an option of it makes: a part."""
    for group in groups():
        path = group.replace("/", ".")
        parent, _, name = path.rpartition(".")
        holder = OmegaConf.select(cfg, parent) if parent else cfg
        if group.startswith(("hydra/", "experiments")):
            continue

        # several options of a group below a part make no part themselves, but a mapping of it
        if path in PARTS or (group not in SEVERAL and name in (holder or {})):
            check_is_part(cfg, group)


def check_is_part(cfg: DictConfig, group: str) -> None:
    path = group.replace("/", ".")
    value = select(cfg, path)
    if isinstance(value, DictConfig) and "_target_" in value:
        return

    options = ", ".join(groups()[group])
    if isinstance(value, DictConfig):
        raise UserError(
            f"The option chosen for {group} is only a part of others; choose another: {group}=..."
        )
    if isinstance(value, str) and value in groups()[group]:
        raise UserError(f"{path}={value}: an option is chosen with {group}={value}")
    if value is None:
        instead = f"{group}=none" if "none" in groups()[group] else f"{group}=..."
        raise UserError(f"{group} cannot be left out; choose {instead}\nOptions: {options}")
    raise UserError(f"{path}={value}: must be an option; choose {group}=...\nOptions: {options}")


def _check_finite(cfg: DictConfig) -> None:
    """Refuse numbers that are not finite, however they are spelled; no setting means something by one."""
    for path, value in _settings(cfg, resolve=True).items():
        for item in value if isinstance(value, list) else [value]:
            is_infinite = isinstance(item, float) and not math.isfinite(item)
            is_spelled = isinstance(item, str) and NOT_FINITE.fullmatch(item) and path != "name"
            if is_infinite or is_spelled:
                part, _, setting = path.rpartition(".")
                raise SettingError(full_name(cfg, part, setting), value, "must be a finite number")


def _targets(cfg: DictConfig, part: str = "") -> list[str]:
    """Paths of what names something to make, below a part or anywhere."""
    leaves = _settings(cfg, resolve=False).items()
    paths = [path.removesuffix("._target_") for path, _ in leaves if path.endswith("._target_")]
    return [path for path in paths if not part or path == part or path.startswith(f"{part}.")]


def _check_signature(cfg: DictConfig, path: str) -> None:
    """Hold a part's keys and values against the signature of its target."""
    node = select(cfg, path)
    target = _object(node, path)
    parameters, hints = signature_of(target)

    for key in node:
        if key in ("_target_", "_partial_") or _is_freely_named(node, key, target, f"{path}.{key}"):
            continue

        if key not in parameters:
            reason = not_chosen(f"{path}.{key}") if path in SEVERAL else ""
            if reason:
                raise UserError(f"{path}.{key}: {reason}")

            near = difflib.get_close_matches(str(key), parameters, n=1)
            hint = f" Did you mean {path}.{near[0]}?" if near else is_named(f"{path}.{key}")
            raise UserError(
                f"{path}.{key} is no setting of {node._target_}.{hint} It has: {', '.join(parameters)}."
            )

        value = select(cfg, f"{path}.{key}")
        expected: Any = hints.get(str(key), Any)
        if not node._target_.startswith("miniclip."):
            expected = _of_another_package(expected, value)
        _check_type(cfg, f"{path}.{key}", value, expected)


def _of_another_package(hint: Any, value: Any) -> Any:
    """What a value is held against where annotations may be careless: numbers stand for any scalar."""
    expected = of_config(hint)
    is_scalar = isinstance(value, int | float) and typing.get_origin(expected) is not tuple
    return Any if is_scalar or isinstance(value, DictConfig) else expected


def _object(node: DictConfig, path: str) -> Any:
    """What a node names as its target."""
    try:
        return hydra.utils.get_object(node._target_)
    except Exception as error:
        raise SettingError(f"{path}._target_", node._target_, f"cannot be found ({error})") from None


def _is_freely_named(node: DictConfig, key: Any, target: Any, path: str) -> bool:
    """Whether a key holds one of the parts that the target takes under any name, a view of a logger say."""
    kind = named_freely(target)
    if kind is None or OmegaConf.is_missing(node, key):
        return False

    value = node[key]
    if not isinstance(value, DictConfig) or "_target_" not in value:
        return False

    made = _object(value, path)
    return inspect.isclass(made) and issubclass(made, kind)


def select(cfg: DictConfig, path: str) -> Any:
    try:
        return OmegaConf.select(cfg, path, throw_on_missing=True)
    except OmegaConfBaseException as error:
        # encoder.text.name=???, which tokenizer.name=${encoder.text.name} leads to
        elsewhere = re.search(r"Missing mandatory value: ([\w.]+)", str(error))
        if elsewhere:
            raise UserError(f"{elsewhere[1]} is needed: give {elsewhere[1]}=...") from None
        if OmegaConf.is_missing(OmegaConf.select(cfg, path.rpartition(".")[0]), path.rpartition(".")[2]):
            raise UserError(f"{path} is needed: give {path}=...") from None
        lacking = re.search(r"Interpolation key '([\w.]+)' not found", str(error))
        if lacking:
            raise UserError(
                f"{path} comes from {lacking[1]}, which this config lacks; give {path}=..."
            ) from None
        raise UserError(f"{path}: {first_line(error)}") from None


def full_name(cfg: DictConfig, part: str, setting: str) -> str:
    """The setting's path below a part; if its value comes from elsewhere, that path."""
    for path, value in _settings(cfg, resolve=False).items():
        if path.startswith(f"{part}.") and path.rsplit(".", 1)[-1] == setting:
            # ${embed_dim} comes from embed_dim; ${oc.env:NAME} comes from no setting
            if isinstance(value, str) and OF_ANOTHER.fullmatch(value):
                return value[2:-1]
            return path
    return f"{part}.{setting}"


def _settings(cfg: DictConfig, *, resolve: bool) -> dict[str, Any]:
    """All settings by their full names."""
    return flatten(typing.cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=resolve)))


def _check_type(cfg: DictConfig, path: str, value: Any, hint: Any) -> None:
    if not fits(value, hint):
        part, _, setting = path.rpartition(".")
        name = full_name(cfg, part, setting) if part else path
        # text in quotes: "5" is no number
        shown = repr(value) if isinstance(value, str) else value
        is_of_environment = "${oc.env:" in str(_settings(cfg, resolve=False).get(name))
        how = "; ${oc.decode:${oc.env:NAME}} reads a variable as more than text"
        allowed = f"must be {described(hint)}{how if is_of_environment else ''}"
        raise SettingError(name, shown, allowed)
