"""Composing the config: where its files lie, and what to tell of a key that they do not hold."""

import difflib
import math
import os
import re
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from miniclip.optuna_sweeper import register_optuna

PACKAGE = Path(__file__).resolve().parent
# a checkout has conf/ and experiments/ beside the package, an installed wheel inside it
HOME = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parent


def compose(*overrides: str) -> DictConfig:
    """The config of `python run.py OVERRIDES`, for use from Python."""
    prepare_hydra()
    with hydra.initialize_config_dir(str(HOME / "conf"), version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))


def prepare_hydra() -> None:
    """What conf/config.yaml refers to."""
    os.environ["MINICLIP_HOME"] = str(HOME)
    OmegaConf.register_new_resolver("product", lambda *factors: math.prod(factors), replace=True)
    OmegaConf.register_new_resolver("short_overrides", short_overrides, replace=True)
    register_optuna()
    # conf/hydra/launcher/ stands in for the launchers' own options, which are found by the same names
    launchers = ConfigStore.instance().repo["hydra"]["launcher"]
    for path in (HOME / "conf" / "hydra" / "launcher").glob("*.yaml"):
        launchers.pop(path.name, None)


def nearest(message: str) -> str:
    """The right spelling of a key or an option that Hydra does not know, as a sentence to add."""
    wrong_key = re.search(r"Could not override '([^']+)'", message)
    if wrong_key:
        word, known = wrong_key[1], _known_keys()
    else:
        wrong_option = re.search(r"Could not find '([^']+)/([^'/]+)'", message)
        if not wrong_option:
            return ""
        folder = HOME / "conf" / wrong_option[1]
        word = wrong_option[2]
        known = [path.stem for path in folder.glob("*.yaml")]
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"\nDid you mean {near[0]}?" if near else ""


def _known_keys() -> list[str]:
    """Every setting and group of the config, whatever its options."""
    keys = set()
    for path in (HOME / "conf").rglob("*.yaml"):
        group = path.relative_to(HOME / "conf").parent.as_posix()
        keys.add(group)
        prefix = "" if group == "." else group.replace("/", ".") + "."
        content = OmegaConf.load(path)
        keys |= {f"{prefix}{key}" for key in map(str, content) if key[0] != "_"}
    return sorted(keys)


def short_overrides(overrides: list[str]) -> str:
    """A job's overrides as a folder name: `rho=0.05,seed=0`. No paths, the last 80 letters or less."""
    pairs = (override.partition("=") for override in overrides)
    short = [f"{key.rpartition('.')[2]}={value}" for key, _, value in pairs if "/" not in value]
    while len(",".join(short)) > 80 and len(short) > 1:
        short.pop(0)
    return re.sub(r"[^\w.,=-]", "-", ",".join(short))[-80:].lstrip(",.") or "default"
