"""Hydra's launchers, made to stop with jobs that run on this machine, and to fail in one line."""

import importlib
import multiprocessing.resource_tracker
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_class
from omegaconf import DictConfig

from miniclip.config.hydra_internals import register_plugin
from miniclip.errors import UserError
from miniclip.launched_jobs import launcher_of_this_process
from miniclip.stop_signals import stop_signals


def register_launchers() -> None:
    """Have Hydra use these in place of the plugins' own, under the same names."""
    for launcher in (JoblibLauncher, SubmititLauncher, SlurmLauncher):
        register_plugin(launcher.plugin, launcher)


class WrappedLauncher(Launcher):
    """A launcher around a plugin's own.

    Args:
        settings: of the plugin's own launcher, which does the work.
    """

    plugin: ClassVar[str]

    def __init__(self, **settings: Any):
        self._launcher: Launcher = get_class(self.plugin)(**settings)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self._launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        return self._launcher.launch(job_overrides, initial_job_idx)


class LauncherOfWorkers(WrappedLauncher):
    """A launcher that hands out no job after a signal, and ends when those in flight have saved."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        with launcher_of_this_process().telling():
            return self._launcher.launch(_UntilSignal(job_overrides), initial_job_idx)


class JoblibLauncher(LauncherOfWorkers):
    """Jobs in the processes of joblib's loky."""

    plugin = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        # their start unblocks signals, which are to be blocked in the workers
        multiprocessing.resource_tracker.ensure_running()
        importlib.import_module("joblib.externals.loky.backend.resource_tracker").ensure_running()
        return super().launch(job_overrides, initial_job_idx)


class SubmititLauncher(LauncherOfWorkers):
    """Jobs in processes that submitit starts on this machine."""

    plugin = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"


class SlurmLauncher(WrappedLauncher):
    """Jobs that submitit gives to Slurm."""

    plugin = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from submitit.core.utils import FailedJobError

        try:
            return super().launch(job_overrides, initial_job_idx)
        except FailedJobError as error:
            reason = (str(error).strip() or "no reason is given").splitlines()[0]
            raise UserError(
                f"Slurm does not take the jobs ({reason}). Change what they ask for with "
                "hydra.launcher.partition, .account, .gpus_per_node (null for none), .cpus_per_task, "
                ".mem_gb or .timeout_min."
            ) from None


class _UntilSignal(Sequence[Sequence[str]]):
    """Jobs as a launcher takes them one by one, of which there are no more after a signal."""

    def __init__(self, jobs: Sequence[Sequence[str]]):
        self._jobs = jobs

    def __len__(self) -> int:
        return len(self._jobs)

    def __getitem__(self, index: Any) -> Any:
        return self._jobs[index]

    def __iter__(self) -> Iterator[Sequence[str]]:
        for job in self._jobs:
            if stop_signals.signum is not None:
                return
            yield job
