"""Optuna as one of Hydra's sweepers.

The plugin on the registry, hydra-optuna-sweeper 1.3.0, needs an Optuna before 3 and an SQLAlchemy before 2;
this one works with today's.
"""

import logging
import math
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from miniclip.config.hydra_internals import parse_overrides, register_plugin
from miniclip.errors import SettingError, UserError, at_least, counted, first_line
from miniclip.files import cut_torn_line, locked

if TYPE_CHECKING:
    import optuna

    from miniclip.runs.sweep import Sweep

log = logging.getLogger(__name__)

OPTUNA = "hydra_plugins.miniclip.OptunaSweeper"
"""What conf/hydra/sweeper/optuna.yaml names: Hydra takes plugins of the package hydra_plugins only."""


def register_optuna() -> None:
    """Make the sweeper known to Hydra."""
    register_plugin(OPTUNA, OptunaSweeper)


class OptunaSweeper(Sweeper):
    """Jobs with settings that Optuna (Akiba et al. 2019, arXiv 1907.10902) proposes by what others reached.

    A setting of several values, `optimizer.rho=0,0.05`, is a choice; `range(...)` and `interval(...)` are
    numbers, with `tag(log,interval(1e-4,1e-2))` on a logarithmic scale. What jobs return is maximized. A
    job that diverged, or whose features do not spread, is told to Optuna as pruned: worse than any other.
    The study is Optuna's journal in the sweep's folder. A second launch into the same folder goes on, first
    with the jobs that were interrupted.

    Args:
        n_trials: jobs in all, those of earlier launches included.
        n_jobs: jobs proposed, and handed to the launcher, at a time.
        sampler: makes one of `optuna.samplers` from a seed.
        seed: of the sampler. A later launch adds the number of trials there are.
        params: the space to search, beside the command line's.
    """

    def __init__(
        self,
        *,
        n_trials: int,
        n_jobs: int,
        sampler: Callable[..., "optuna.samplers.BaseSampler"],
        seed: int,
        params: Mapping[str, Any] | None,
    ):
        for name, value in (("n_trials", n_trials), ("n_jobs", n_jobs)):
            at_least(name, value, 1)

        self.n_trials = n_trials
        self.n_jobs = n_jobs
        self.sampler = sampler
        self.seed = seed
        self.params = params or {}

        # Hydra gives these in `setup`
        self.launcher: Launcher
        self.config: DictConfig
        self.context: HydraContext

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config = config
        self.context = hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".search.lock") as is_free:
            if not is_free:
                raise UserError(
                    f"Another process searches in {folder}. Wait for its end, or give this search a folder "
                    "of its own: hydra.sweep.dir=..."
                )
            OmegaConf.save(self.config, folder / "multirun.yaml")
            self._search(arguments, folder)

    def _search(self, arguments: list[str], folder: Path) -> None:
        from optuna.trial import TrialState

        from miniclip.runs.sweep import STUDY, Sweep

        space, fixed = self._space(arguments)
        sweep = Sweep(folder)
        study = open_study(folder / STUDY)

        # with the number of trials, or a second launch would propose the first one's settings again
        study.sampler = self.sampler(seed=self.seed + len(study.trials))

        # also where nothing is left to run: of another number of jobs than before
        sweep.write_search(num_jobs=self.n_trials, num_begun=len(_proposed(study, space)))

        interrupted = _interrupted(study, space)
        if interrupted:
            self._run(study, interrupted, fixed)

        while (left := self.n_trials - len(_proposed(study, space))) > 0:
            proposed = [study.ask(space) for _ in range(min(self.n_jobs, left))]
            sweep.write_search(num_jobs=self.n_trials, num_begun=len(_proposed(study, space)))
            self._run(study, proposed, fixed)

        completed = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
        if completed:
            best = best_of(completed, sweep)
            log.info("Best of %s: %s", counted(len(completed), "job"), result_line(best))
        else:
            num_jobs = counted(len(_proposed(study, space)), "job")
            log.warning("None of %s has a sound result: see the table.", num_jobs)

    def _space(
        self, arguments: list[str]
    ) -> tuple[dict[str, "optuna.distributions.BaseDistribution"], list[str]]:
        """The settings to search, and those that all jobs share."""
        loader = self.context.config_loader
        given = {override.get_key_element() for override in parse_overrides(arguments, loader)}
        in_files = [f"{key}={value}" for key, value in self.params.items() if key not in given]

        space = {}
        fixed = []
        for override in parse_overrides([*in_files, *arguments], loader):
            if override.is_sweep_override():
                space[override.get_key_element()] = distribution_of(override)
            else:
                fixed.append(override.input_line or "")
        return space, fixed

    def _run(self, study: "optuna.Study", trials: Sequence[Any], fixed: Sequence[str]) -> None:
        """Launch trials, whose numbers follow each other, as jobs, and tell the study what they reached."""
        from optuna.trial import TrialState

        from miniclip.runs.sweep import Sweep

        jobs = [[*fixed, *_settings(trial)] for trial in trials]
        returns = self.launcher.launch(jobs, initial_job_idx=trials[0].number)
        unsound = _unsound_jobs(Sweep(Path(self.config.hydra.sweep.dir)))
        for trial, returned in zip(trials, returns, strict=True):
            try:
                value = float(returned.return_value)
            except Exception as error:  # whatever ended the job
                log.error("Job %d failed: %s", trial.number, error)
                value = math.nan

            if _is_one_of(unsound, trial):
                study.tell(trial.number, state=TrialState.PRUNED)
            elif math.isnan(value):
                study.tell(trial.number, state=TrialState.FAIL)
            else:
                study.tell(trial.number, value)


def open_study(journal: Path) -> "optuna.Study":
    """The study that a journal holds, or a new one.

    Raises:
        DamagedFile: when the journal is none; half a line, of a process that was killed, is cut off.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    from miniclip.runs import DamagedFile

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    cut_torn_line(journal)
    try:
        return optuna.create_study(
            study_name="sweep",
            storage=JournalStorage(JournalFileBackend(str(journal))),
            direction="maximize",
            load_if_exists=True,
        )
    except (ValueError, LookupError, TypeError) as error:
        raise DamagedFile(
            f"{journal} is damaged ({first_line(error)}). Remove it: the search then begins anew, and "
            "trains no job again that is completed."
        ) from error


def _proposed(study: "optuna.Study", space: Collection[str]) -> list["optuna.trial.FrozenTrial"]:
    """The trials of which Optuna has chosen every setting: it may be killed while it chooses."""
    return [trial for trial in study.trials if _is_whole(trial, space)]


def _interrupted(study: "optuna.Study", space: Collection[str]) -> list["optuna.trial.FrozenTrial"]:
    """The trials whose jobs are to be run again; one that lacks settings is told to have failed."""
    from optuna.trial import TrialState

    running = [trial for trial in study.trials if trial.state == TrialState.RUNNING]
    for trial in running:
        if not _is_whole(trial, space):
            study.tell(trial.number, state=TrialState.FAIL)
    return [trial for trial in running if _is_whole(trial, space)]


def _is_whole(trial: "optuna.trial.FrozenTrial", space: Collection[str]) -> bool:
    return trial.params.keys() >= set(space)


def best_of(trials: Sequence["optuna.trial.FrozenTrial"], sweep: "Sweep") -> "optuna.trial.FrozenTrial":
    """The trial that reached most; one whose features do not spread only where there is no other."""
    unsound = _unsound_jobs(sweep)
    return max(trials, key=lambda trial: (not _is_one_of(unsound, trial), trial.value or 0.0))


def _settings(trial: Any) -> list[str]:
    """What Optuna chose for a trial, as overrides."""
    return [f"{key}={value}" for key, value in trial.params.items()]


def _unsound_jobs(sweep: "Sweep") -> list[set[str]]:
    """The overrides of each job that diverged, or whose features do not spread."""
    jobs = sweep.jobs()
    return [set(job.overrides) for job in jobs if job.has_collapsed or job.state.status == "diverged"]


def _is_one_of(jobs: Sequence[set[str]], trial: Any) -> bool:
    """Whether a trial is one of some jobs: one whose settings an earlier trial had is that one's job."""
    return any(job.issuperset(_settings(trial)) for job in jobs)


def result_line(trial: "optuna.trial.FrozenTrial") -> str:
    """A trial's number, what it reached, and its settings as they are typed in a shell."""
    # choices stand as they were typed for Hydra; what is left to quote is for the shell
    settings = shlex.join(_settings(trial))
    return f"{trial.number}, {trial.value:.1f} with {settings}"


def settings_to_check(overrides: Sequence[Override]) -> list[list[str]]:
    """Jobs that together hold every value of every axis once, of intervals the ends.

    All combinations cannot be known before Optuna chooses.
    """
    axes: list[list[str]] = []
    for override in overrides:
        key = override.get_key_element()
        value = override.value()

        if isinstance(value, IntervalSweep):
            axes.append([f"{key}={value.start}", f"{key}={value.end}"])
        elif override.is_sweep_override():
            axes.append([f"{key}={choice}" for choice in override.sweep_string_iterator()])
        else:
            axes.append([override.input_line or ""])

    # an axis that is shorter than the longest repeats its last value
    count = max(map(len, axes), default=1)
    return [[axis[min(place, len(axis) - 1)] for axis in axes] for place in range(count)]


def distribution_of(override: Override) -> "optuna.distributions.BaseDistribution":
    """What Optuna chooses the values of a setting from.

    Raises:
        SettingError: when it can choose none, as between 1 and 0.
    """
    try:
        return _distribution(override)
    except ValueError as error:
        allowed = f"Optuna can choose no value of it ({first_line(error)})"
        raise SettingError(override.get_key_element(), override.get_value_string(), allowed) from error


def _distribution(override: Override) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep):
        start, end = value.start, value.end
        assert start is not None and end is not None
        log_scale = "log" in value.tags
        if isinstance(start, int) and isinstance(end, int):
            return IntDistribution(start, end, log=log_scale)
        return FloatDistribution(start, end, log=log_scale)
    if isinstance(value, RangeSweep) and not value.shuffle:
        numbers = [number for number in override.sweep_iterator() if isinstance(number, int | float)]
        are_whole = all(isinstance(number, int) for number in numbers)
        kind: Any = IntDistribution if are_whole else FloatDistribution
        return kind(min(numbers), max(numbers), step=abs(value.step))
    return CategoricalDistribution(list(override.sweep_string_iterator()))
