"""Train a model, or a sweep of models with -m: the same as `python run.py`.

Settings are typed as SETTING=VALUE, options of a group as GROUP=OPTION. `miniclip train --help` lists them
all, `miniclip train --cfg job` prints the config that would run.
"""

import argparse
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from miniclip.commands import slurm
from miniclip.commands.console import console, let_waiting_threads_sleep, with_new_names
from miniclip.commands.processes import be_quiet, exit_telling, words_of_several
from miniclip.config.compose import (
    HOME,
    prepare_hydra,
    refuse_unknown,
    refuse_unresolved,
    tell_without_effect,
    what_is_wrong,
)
from miniclip.config.hydra_internals import typed_words
from miniclip.config.refusals import FOLDERS_OF_HYDRA, refuse_misspelled
from miniclip.config.typed_words import as_hydra_reads
from miniclip.disk_errors import disk_errors_told
from miniclip.errors import UserError, without_secrets
from miniclip.files import typed_path
from miniclip.launched_jobs import LAUNCHER, is_worker, result_in_worker
from miniclip.stop_signals import shell_status, stop_signals

EXAMPLES = """\
  miniclip train optimizer=sam optimizer.rho=0.05
  miniclip train data=folder data.root=photos trainer.budget.epochs=10
  miniclip train -m optimizer.rho=0,0.05 seed=0,1,2
"""

FULL_ERROR = "HYDRA_FULL_ERROR"
"""Variable of the environment: 1 shows tracebacks."""

ELSEWHERE = "Where a run is written: hydra.run.dir=FOLDER"
"""Advice where the run directory cannot be written."""

OF_HYDRA = "A file in the run directory's .hydra"

FLAGS_OF_HYDRA = (
    "--help",
    "--hydra-help",
    "--version",
    "--cfg",
    "--resolve",
    "--package",
    "--run",
    "--multirun",
    "--shell-completion",
    "--config-path",
    "--config-name",
    "--config-dir",
    "--experimental-rerun",
    "--info",
)

TAKE_A_WORD = (
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun"),
)
"""Those of them whose value is the next word."""

TOPICS = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
"""Words that may follow --info; any other is a setting."""

ACTIONS = ("--run", "-r", "--multirun", "-m", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")
"""Those of them of which Hydra does one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Settings; all flags, `--help` among them, are Hydra's."""
    parser.add_argument("settings", nargs="*", metavar="SETTING=VALUE")


def run(arguments: argparse.Namespace) -> None:
    """Train with the settings that were typed."""
    sys.argv = ["miniclip train", *arguments.settings]
    train()


def train() -> None:
    """Compose the config from `sys.argv` and train, once or as a sweep.

    Exits with 1 after an error, and after a signal with 128 + signal; with 0 after SIGUSR1 where Slurm has
    queued the job again.
    """
    let_waiting_threads_sleep()
    os.environ.pop(LAUNCHER, None)  # of a sweep whose job has started this process
    be_quiet()  # before a signal can end it with a word
    with stop_signals.caught(), console():
        sys.argv[1:] = [_with_whole_flag(_with_home(word)) for word in with_new_names(sys.argv[1:])]
        stop_signals.exit_status = partial(_exit_status, words=sys.argv[1:])
        _train()


def _train() -> None:
    words = [word for word in sys.argv[1:] if not word.startswith("-")]

    try:
        sys.argv[1:] = _settings_together(words_of_several(sys.argv[1:]))
        _refuse_flags(sys.argv[1:])
        refuse_misspelled(words)
        sys.argv[1:] = as_hydra_reads(sys.argv[1:])
        prepare_hydra()
        with _past_hydras_printer(), disk_errors_told(ELSEWHERE, unnamed=OF_HYDRA):
            hydra.main(config_path=str(HOME / "conf"), config_name="config", version_base="1.3")(_job)()
    except KeyboardInterrupt as interruption:
        sys.exit(stop_signals.exit_status(getattr(interruption, "signum", signal.SIGINT)))
    except (_Refused, UserError, HydraException, OmegaConfBaseException) as raised:
        error = raised.error if isinstance(raised, _Refused) else raised
        if os.environ.get(FULL_ERROR) == "1":
            print(without_secrets(traceback.format_exc()), end="", file=sys.stderr)
        exit_telling(what_is_wrong(error, words, sweeps=True))


def _settings_together(words: Sequence[str]) -> list[str]:
    """What was typed in an order that Hydra's parser takes: it wants no flag between two settings."""
    first: list[str] = []
    settings: list[str] = []
    last: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if word in ("-m", "--multirun"):
            first.append(word)
        elif word.startswith("-") or _is_value(word, before):
            last.append(word)
        else:
            settings.append(word)
    return [*first, *settings, *last]


def _is_value(word: str, before: str) -> bool:
    """Whether a word is the value of the flag before it."""
    return before in TAKE_A_WORD or (before in ("--info", "-i") and word in TOPICS)


def _with_whole_flag(word: str) -> str:
    """A word that was typed; a flag by its whole name, of which Hydra's parser takes a part: --config-n."""
    name, equals, value = word.partition("=")
    meant = [flag for flag in FLAGS_OF_HYDRA if name.startswith("--") and flag.startswith(name)]
    return f"{meant[0]}{equals}{value}" if len(meant) == 1 else word


def _with_home(word: str) -> str:
    """A setting that was typed; of a folder that Hydra makes, with the user's home in place of ~."""
    key, _, value = word.partition("=")
    is_of_home = key in FOLDERS_OF_HYDRA and value.startswith("~")
    return f"{key}={typed_path(value)}" if is_of_home else word


def _exit_status(signum: int, *, words: Sequence[str]) -> int:
    is_time_up = signum == getattr(signal, "SIGUSR1", None)
    return 0 if is_time_up and slurm.requeued(words) else shell_status(signum)


@contextmanager
def _past_hydras_printer() -> Iterator[None]:
    """Errors reach the caller instead of Hydra's printer; the user's own wish stands again afterwards."""
    wish = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        if wish is None:
            del os.environ[FULL_ERROR]
        else:
            os.environ[FULL_ERROR] = wish


def _refuse_flags(words: Sequence[str]) -> None:
    """Tell of a setting that was typed as a flag, and of flags that exclude each other."""
    flags = dict.fromkeys(word.partition("=")[0] for word in words)
    given = [flag for flag in flags if flag in ACTIONS]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} do not go together: take one of them")

    for word in words:
        flag, _, value = word.partition("=")
        if flag.startswith("--") and not any(known.startswith(flag) for known in FLAGS_OF_HYDRA):
            setting = shlex.quote(f"{flag[2:]}={value or '...'}")
            raise UserError(f"settings are typed without --: {setting}")


class _Refused(BaseException):
    """A user's error on its way past Hydra, which would put a line of its own in front."""

    def __init__(self, error: UserError | OmegaConfBaseException):
        self.error = error


def _job(cfg: DictConfig) -> float:
    """One run, or one job of a sweep; its result is for sweepers."""
    run = partial(_run, cfg)
    return result_in_worker(run) if is_worker() else run()


def _run(cfg: DictConfig) -> float:
    settings = HydraConfig.get()
    try:
        if settings.mode is RunMode.RUN:  # jobs of sweeps have been checked together
            typed = typed_words(settings)
            refuse_unknown(cfg, typed, settings.job.config_name or "config")
            refuse_unresolved(cfg)
            tell_without_effect(cfg, typed)

        # brings torch, for which a misspelt setting need not wait
        from miniclip.commands.job import run_job

        with disk_errors_told(ELSEWHERE):  # also of what is written before the training
            return run_job(cfg)
    except (UserError, OmegaConfBaseException) as error:
        if settings.mode is RunMode.RUN:
            raise _Refused(error) from error
        raise
