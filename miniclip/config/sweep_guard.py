"""Checks of a run or a sweep before Hydra writes its first file, and what came of a sweep at its end."""

import atexit
import importlib.util
import shlex
import sys
import typing
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from miniclip.config import hydra_internals
from miniclip.config.build import check
from miniclip.config.compose import (
    refuse_unknown,
    refuse_unresolved,
    tell_jobs_what_is_swept,
    what_is_wrong,
)
from miniclip.config.optuna_sweeper import OPTUNA, distribution_of, settings_to_check
from miniclip.config.refusals import refuse_misspelled, refuse_secrets_of_files
from miniclip.errors import SettingError, UserError, counted
from miniclip.files import is_locked
from miniclip.runs import RunFiles
from miniclip.runs.job_key import job_key, search_key
from miniclip.runs.run_directory import folder_is_busy
from miniclip.runs.sweep import Sweep
from miniclip.training.resuming import AUTO

COUNTS = (
    "hydra.sweeper.n_trials",
    "hydra.sweeper.n_jobs",
    "hydra.launcher.tasks_per_node",
    "hydra.launcher.nodes",
)
"""Settings of launchers and sweepers that count something, where they have them."""

WORKERS_OF_JOBLIB = "hydra.launcher.n_jobs"


class SweepGuard(Callback):
    """Hydra callback: checks all jobs of a sweep before the first one starts, tells last what failed.

    A run it keeps from a directory in which another process trains, before Hydra describes it there.
    Of a sweep by Optuna it checks every value of each axis once.

    Args:
        swept: the settings of several values, for the names of jobs; found at the start of the sweep.
    """

    sweep: Sweep

    def __init__(self, swept: Sequence[str] = ()):
        self.swept = swept

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            _refuse_secrets(config)
            folder = Path(config.hydra.run.dir)
            with suppress(OSError):  # the run tells what is wrong with its folder
                if is_locked(RunFiles(folder).lock_file):
                    raise UserError(folder_is_busy(folder))
        except UserError as error:
            sys.exit(f"Error: {error}")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        overrides = _with_axes_of_files(config)
        try:
            _refuse_secrets(config)
            tell_jobs_what_is_swept(config, hydra_internals.parse_overrides(overrides))
            _require_plugins(config)
            _check_counts(config)
            keys = _keys_of_jobs(config, overrides)
            self.sweep = Sweep(Path(config.hydra.sweep.dir))
            self.sweep.claim(keys)
        except (UserError, HydraException, OmegaConfBaseException) as error:
            # Hydra turns a callback's exceptions into warnings, but lets this one end the program
            sys.exit(f"Error: {what_is_wrong(error, overrides)}")

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
            lines = [f"{counted(len(failures), 'job')} not completed:", *failures]
            print("\n".join(lines), file=sys.stderr)
        return not failures


def _refuse_secrets(config: DictConfig) -> None:
    """Refuse passwords and keys in a config, before Hydra writes it down as it stands and a run resolved.

    Raises:
        UserError: names the setting.
    """
    refuse_secrets_of_files(OmegaConf.to_container(config, resolve=False))
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    with suppress(OmegaConfBaseException):  # the job tells what cannot be resolved
        refuse_secrets_of_files(OmegaConf.to_container(own, resolve=True))


def _with_axes_of_files(config: DictConfig) -> list[str]:
    """What was typed, and the axes of a study's file that were not typed anew."""
    overrides = hydra_internals.typed_words(config.hydra)
    for key, values in (OmegaConf.select(config, "hydra.sweeper.params") or {}).items():
        if not any(override.startswith(f"{key}=") for override in overrides):
            overrides.append(f"{key}={values}")
    return overrides


def _keys_of_jobs(config: DictConfig, overrides: list[str]) -> list[str]:
    """Check every job of a sweep, and return what tells apart what they compute.

    Raises:
        UserError: names the job, and what is wrong with it.
    """
    parsed = hydra_internals.parse_overrides(overrides)
    is_search = config.hydra.sweeper._target_ == OPTUNA
    _check_axes(parsed, is_search=is_search)
    jobs = settings_to_check(parsed) if is_search else hydra_internals.jobs_of_grid(parsed)

    keys: dict[str, str] = {}
    for number, job in enumerate(jobs):
        where = f"job {shlex.join(job)}: "
        try:
            key = _key_of_checked(job, number, config.hydra.job.config_name)
        except (UserError, HydraException, OmegaConfBaseException) as error:
            raise UserError(f"{where}{what_is_wrong(error, overrides)}") from error

        twin = keys.setdefault(key, where)
        if twin != where and not is_search:
            raise UserError(
                f"{where}computes the same as {twin}they differ in names, places or speed only. Leave "
                "one out; data in folders of one name can be given by relative paths."
            )
    return [search_key(overrides)] if is_search else list(keys)


def _check_axes(overrides: Sequence[Override], *, is_search: bool) -> None:
    """Refuse a setting of several values that stands for none, by which a sweep would have no job.

    Raises:
        SettingError: names the setting.
    """
    for override in overrides:
        if not override.is_sweep_override():
            continue

        is_interval = isinstance(override.value(), IntervalSweep)
        if not is_interval and not list(override.sweep_string_iterator()):
            allowed = "stands for no value, so that the sweep would have no job"
            raise SettingError(override.get_key_element(), override.get_value_string(), allowed)
        if is_search:
            distribution_of(override)


def _key_of_checked(job: Sequence[str], number: int, config_name: str) -> str:
    """Check a job of a sweep, and return the key of what it computes."""
    refuse_misspelled(job)
    cfg = hydra_internals.config_of_run(config_name, job)
    refuse_unknown(cfg, job, config_name)

    with hydra_internals.as_job(cfg, number):
        refuse_unresolved(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        if cfg.trainer.resume not in (None, AUTO):
            allowed = (
                "is for a single run; the jobs of a sweep begin anew, or go on with their own: take null"
            )
            raise SettingError("trainer.resume", cfg.trainer.resume, allowed)
        check(cfg)
        return job_key(typing.cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True)))


def _require_plugins(config: DictConfig) -> None:
    """Refuse a launcher or sweeper that is not installed."""
    for part, module in (("launcher", None), ("sweeper", "optuna")):
        target: str = config.hydra[part]._target_
        if target != OPTUNA:
            # hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher
            module = ".".join(target.split(".")[:2])
        assert module is not None
        if not _is_installed(module):
            name = config.hydra.runtime.choices[f"hydra/{part}"]
            extra = "ray" if name == "ray" else "sweeps"
            raise UserError(f'hydra/{part}={name} needs more: pip install -e ".[{extra}]"')


def _check_counts(config: DictConfig) -> None:
    """Refuse numbers of jobs and processes that a launcher or a sweeper would die of.

    Raises:
        SettingError: names the setting.
    """
    for setting in COUNTS:
        value = OmegaConf.select(config, setting)
        if value is not None and (type(value) is not int or value < 1):
            raise SettingError(setting, value, "must be a whole number of at least 1")

    num_workers = OmegaConf.select(config, WORKERS_OF_JOBLIB)
    if num_workers is not None and (type(num_workers) is not int or num_workers == 0):
        allowed = "must be a whole number of at least 1, or -1 for as many as there are processors"
        raise SettingError(WORKERS_OF_JOBLIB, num_workers, allowed)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor is the package it is a part of
        return False
