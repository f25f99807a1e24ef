"""Trials: whole runs in processes of their own, which are signaled, killed or starved at an instant.

A process that imports torch costs four seconds before it does anything. Here a server imports it once, and
each trial is a fork of it, in a process group of its own as a shell would give it.

    trial = Trial(*TINY, f"hydra.run.dir={folder}", output=tmp_path / "output.txt")
    trial.send(signal.SIGTERM)
    assert trial.wait() == 143
"""

import atexit
import importlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from miniclip import cli
from miniclip.runs import RunFiles
from miniclip.training.checkpoint import load_checkpoint

TINY = (
    "encoder/image=timm",
    "encoder.image.architecture=test_resnet",
    "encoder.text.width=32",
    "encoder.text.num_layers=1",
    "image_size=32",
    "embed_dim=32",
    "data.limit=80",
    "trainer.batch_size=16",
    "trainer.budget.epochs=3",
    "trainer.num_workers=0",
    "device=cpu",
)
"""The whole recipe, small: five steps an epoch, fifteen in all, a second or two."""

OF_TIME = ("train/seconds", "train/images_per_second")
"""What no two runs have in common."""

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["tests.reliability.preloaded"])


class Trial:
    """`miniclip train SETTINGS` in a process of its own, which leads a process group.

    Args:
        settings: what is typed after `miniclip train`.
        output: file that takes what it prints.
        before: called in the process before the command; see `at_call`.
        words: another command than `train`, with its arguments, in place of settings.
        env: variables of the environment.
    """

    def __init__(
        self,
        *settings: str,
        output: Path,
        before: Callable[[], object] | None = None,
        words: Sequence[str] = (),
        **env: str,
    ):
        self.output = output
        arguments = list(words) or ["train", *settings]
        self.process = _server.Process(target=_command, args=(arguments, output, before, env))
        self.process.start()

    @property
    def pid(self) -> int:
        pid = self.process.pid
        assert pid is not None
        return pid

    @property
    def printed(self) -> str:
        """All that the process has printed until now."""
        return self.output.read_text("utf-8", errors="replace") if self.output.exists() else ""

    def send(self, signum: int, *, to_group: bool = False) -> None:
        """Send a signal to the process, or to it and its workers as a shell or a cluster does."""
        (os.killpg if to_group else os.kill)(self.pid, signum)

    def kill_after(self, seconds: float) -> bool:
        """Kill it after so long. Returns whether it was still there."""
        self.process.join(seconds)
        is_alive = self.process.is_alive()
        if is_alive:
            self.send(signal.SIGKILL, to_group=True)
        self.process.join()
        return is_alive

    def wait(self, seconds: float = 120.0) -> int:
        """The exit status as a shell tells it: 128 + signal where one ended the process."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.send(signal.SIGKILL, to_group=True)
            raise TimeoutError(f"still running after {seconds:g} s:\n{self.printed}")
        code = self.process.exitcode
        return 128 - code if code < 0 else code


def _command(
    words: list[str], output: Path, before: Callable[[], object] | None, env: dict[str, str]
) -> None:
    """The command line, in a fork of the server."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # of its workers; this process itself has a server
    file = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)

    os.environ.update({"MPLBACKEND": "agg", "HYDRA_FULL_ERROR": "0", **env})
    torch.set_num_threads(1)
    sys.argv = ["miniclip", *words]
    if before is not None:
        before()
    try:
        cli.main()
    finally:
        # the end of Python calls these, that of multiprocessing does not: pools of processes, then the rest
        for end_pool in reversed(threading._threading_atexits):  # type: ignore[attr-defined]
            end_pool()
        atexit._run_exitfuncs()


def at_call(target: str, number: int, action: Callable[[], object]) -> None:
    """Have an action done as a function is called for the n-th time, in this process.

    Args:
        target: "module:name" or "module:Class.method".
        number: of the call, from 1.
    """
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    owner = reduce(getattr, owners, importlib.import_module(module))
    original = getattr(owner, name)
    calls = count(1)

    def called(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == number:
            action()
        return original(*args, **kwargs)

    setattr(owner, name, called)


def before_call(target: str, number: int, action: Callable[[], object]) -> Callable[[], object]:
    """The same as a value that `Trial` takes over into its process."""
    return partial(at_call, target, number, action)


def signal_self(signum: int) -> Callable[[], object]:
    """An action: this process gets a signal."""
    return partial(_send_to_self, signum, to_group=False)


def signal_group(signum: int) -> Callable[[], object]:
    """An action: this process and its workers get a signal."""
    return partial(_send_to_self, signum, to_group=True)


def _send_to_self(signum: int, *, to_group: bool) -> None:
    if to_group:
        os.killpg(os.getpgrp(), signum)
    else:
        os.kill(os.getpid(), signum)
    time.sleep(0.01)  # the handler runs between two instructions of the main thread


def outcome(folder: Path) -> dict[str, Any]:
    """All that a finished run has come to, of which two runs with the same settings have equal values.

    Weights, moments and buffers are digests to the bit; times are left out.
    """
    run = RunFiles(folder)
    ranks = run.read_ranks() or {}
    summary = {key: value for key, value in run.read_summary().items() if "seconds" not in key}
    return {
        "last": _digests(load_checkpoint(run.last_checkpoint)),
        "best": _digests(load_checkpoint(run.best_checkpoint)),
        "metrics": [_without_time(record) for record in run.read_metrics()],
        "summary": json.loads(json.dumps(_without_time(summary))),
        "ranks": {name: values.tolist() for name, values in ranks.items()},
    }


def _digests(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Of the parts that training changes, each value; a tensor by its bytes."""
    parts = ("model", "optimizer", "scaler", "random_state")
    return {name: plain(checkpoint[name]) for name in parts}


def plain(value: Any) -> Any:
    """A value that is equal to another where the tensors in both are, to the bit."""
    if isinstance(value, torch.Tensor):
        return value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(below) for key, below in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(below) for below in value]
    return value


def _without_time(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_time(below)
            for key, below in value.items()
            if key not in OF_TIME and "per_second" not in key and "memory" not in key
        }
    return value
