"""Measuring trained models: what `miniclip evaluate` and `python run.py eval=...` do.

All features are float32 and, but for the loss surface, of evaluation mode.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from miniclip.errors import SettingError
from miniclip.evaluation.task import Result, Task, TaskContext, Unsuited
from miniclip.files import is_locked, locked, write_json
from miniclip.metrics import Features
from miniclip.runs.run_files import check_place

log = logging.getLogger(__name__)

LOCK = ".lock"
"""In a folder of results: held while they are written."""


class Evaluation:
    """A mapping of tasks, done one after another on one model.

    Args:
        tasks: by their names, which name their files, too.
        skip_unsuited: leave out what the data do not suit, instead of refusing them.

    Raises:
        SettingError: when a name stands for no task.
    """

    def __init__(self, *, tasks: Mapping[str, Task], skip_unsuited: bool):
        given: Mapping[str, object] = tasks  # a config may hold anything
        for name, value in given.items():
            if not isinstance(value, Task):
                allowed = f"is no task; one is left out with '~eval.tasks.{name}'"
                raise SettingError(f"tasks.{name}", value, allowed)

        self.tasks = tasks
        self.skip_unsuited = skip_unsuited

    def check(self, context: TaskContext) -> dict[str, Task]:
        """The tasks to do.

        Raises:
            UserError: when one of them does not suit the data or the model.
        """
        suited = {}
        for name, task in self.tasks.items():
            try:
                with _settings_of(name):
                    task.check(context)
            except Unsuited as error:
                if not self.skip_unsuited:
                    raise

                level = logging.WARNING if error.is_news else logging.DEBUG
                log.log(level, "%s is left out: %s", name, error)
            else:
                suited[name] = task

        return suited

    def at_each_validation(self, context: TaskContext) -> list[Callable[[Features], dict[str, float]]]:
        """What of the tasks is cheap enough for every validation of a training run."""
        return [partial(task.at_each_validation, context) for task in self.check(context).values()]

    def run(self, context: TaskContext, *, checkpoint: str) -> dict[str, Result]:
        """Do the tasks; each writes TASK.json into the context's folder, and its figures beside.

        Args:
            checkpoint: what a reader can load the model from, for the files.

        Raises:
            UserError: when a task does not suit the data or the model.
        """
        # all of them before the first is done, which may take long
        tasks = self.check(context)
        if not tasks:
            return {}
        check_place(context.folder, is_folder=True)
        context.folder.mkdir(parents=True, exist_ok=True)
        for name in tasks:
            check_place(_file_of(name, context))

        # figures and files of two that measure one model would get in each other's way
        lock = context.folder / LOCK
        if is_locked(lock):
            log.warning("Another evaluation writes into %s; this one waits for it.", context.folder)
        with locked(lock, wait_seconds=-1):
            return {
                name: _measured(name, task, context, checkpoint=checkpoint) for name, task in tasks.items()
            }


def _measured(name: str, task: Task, context: TaskContext, *, checkpoint: str) -> Result:
    """Do a task, and write its file, which says by itself what was measured, and on what."""
    result = task.run(context)
    numbers = {
        "checkpoint": checkpoint,
        "protocol": context.protocol,
        "data_fingerprint": context.val.split.fingerprint(),
        **result.numbers,
    }
    write_json(_file_of(name, context), numbers)
    return Result(numbers, result.lines)


def _file_of(task: str, context: TaskContext) -> Path:
    return context.folder / f"{task}.json"


def result_text(task: str, result: Result) -> str:
    """A result as a person reads it, under what it was measured on."""
    heading = f"{task} ({result.numbers['protocol']}; {result.numbers['checkpoint']})"
    return "\n".join([heading, *(f"  {line}" for line in result.lines)])


def flat_numbers(results: dict[str, Result]) -> dict[str, float | str]:
    """The numbers of results and what names them, for loggers: {"eval/zero_shot/top1": 12.5}."""
    return {
        f"eval/{task}/{key}": value
        for task, result in results.items()
        for key, value in _leaves(result.numbers)
    }


def _leaves(numbers: dict[str, Any]) -> Iterator[tuple[str, float | str]]:
    """Numbers and names, also those inside; metrics without the word before them, no lists."""
    for key, value in numbers.items():
        if isinstance(value, dict):
            # "metrics" says no more than the task's own name
            for inner, leaf in _leaves(value):
                yield (inner if key == "metrics" else f"{key}/{inner}"), leaf
        elif isinstance(value, int | float | str):
            yield key, value


@contextmanager
def _settings_of(task: str) -> Iterator[None]:
    """Give a task's settings the names that a user types."""
    try:
        yield
    except SettingError as error:
        setting = f"eval.tasks.{task}.{error.setting}"
        raise SettingError(setting, error.value, error.allowed) from None
