"""Parts of Hydra that it keeps for itself or barely documents, each behind a function that says its use.

Tried on hydra-core 1.3.8, to which setup.cfg pins `<1.4`; with a newer Hydra, look here first.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict


def config_of_run(name: str, overrides: Sequence[str]) -> DictConfig:
    """The config that a single run with these overrides has, Hydra's own settings included."""
    loader = GlobalHydra.instance().config_loader()
    return loader.load_configuration(name, overrides=list(overrides), run_mode=RunMode.RUN)


def typed_words(settings: Any) -> list[str]:
    """The overrides as they were typed; Hydra's list of them looks up each ${...} when it is read."""
    words: Any = OmegaConf.to_container(settings.overrides.task, resolve=False)
    return words


@contextmanager
def as_job(cfg: DictConfig, number: int) -> Iterator[None]:
    """Let ${hydra:...} in a config be looked up, as in the job of that number, before there is a job."""
    with open_dict(cfg.hydra):
        cfg.hydra.job.num = number
        cfg.hydra.job.id = str(number)
    current = HydraConfig.instance()
    before = current.cfg
    current.set_config(cfg)
    try:
        yield
    finally:
        current.cfg = before


def parse_overrides(overrides: Sequence[str], loader: ConfigLoader | None = None) -> list[Override]:
    """Overrides by Hydra's grammar.

    Args:
        loader: of the configs that are meant; that of the running program if None.
    """
    loader = loader or GlobalHydra.instance().config_loader()
    return OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))


def is_readable(override: str) -> bool:
    """Whether an override is one by Hydra's grammar."""
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def jobs_of_grid(overrides: Sequence[Override]) -> Sequence[Sequence[str]]:
    """The overrides of each job that Hydra's basic sweeper makes of several values."""
    return BasicSweeper.split_arguments(list(overrides), max_batch_size=None)[0]


def register_plugin(name: str, plugin: type[Sweeper] | type[Launcher]) -> None:
    """Make a class known under a name, for which Hydra would scan the package hydra_plugins."""
    Plugins.instance().class_name_to_class[name] = plugin


def forget_option(group: str, name: str, option: str) -> None:
    """Take an option that a plugin has stored out of a group, so that a file of ours stands in for it."""
    ConfigStore.instance().repo[group][name].pop(option, None)
