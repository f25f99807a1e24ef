"""The command line in this process: what it answers, and a process that is afterwards as it was before.

A process of its own costs four seconds before it does anything, most of them for importing torch. Tests of
signals, of exit at the end of the interpreter, of environments and of launchers need one and start it by
`tests.conftest.run_miniclip`; all others call this.
"""

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from miniclip import cli


class Answer(NamedTuple):
    """What a command gave back and printed."""

    returncode: int
    stdout: str
    stderr: str


def miniclip_in_process(*words: object, cwd: Path | None = None, **env: str) -> Answer:
    """Run the command `miniclip WORDS` in this process, and leave no trace in it.

    Args:
        cwd: folder to run in; None stays in the present one.
        env: variables of the environment.
    """
    stdout, stderr = io.StringIO(), io.StringIO()
    argv = ["miniclip", *map(str, words)]
    returncode = 0
    with (
        undone(cwd),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
        mock.patch.object(sys, "argv", argv),
        mock.patch.dict(os.environ, {"MPLBACKEND": "agg", **env}),
    ):
        try:
            cli.main()
        except SystemExit as end:
            returncode = _exit_status(end.code)
    return Answer(returncode, stdout.getvalue(), stderr.getvalue())


def train_in_process(*settings: object, cwd: Path | None = None, **env: str) -> Answer:
    """`python run.py SETTINGS` in this process; see `miniclip_in_process`."""
    return miniclip_in_process("train", *settings, cwd=cwd, **env)


def _exit_status(code: object) -> int:
    """The status with which Python would end, having printed a code that is no number."""
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return 1


@contextmanager
def undone(cwd: Path | None = None) -> Iterator[None]:
    """Undo what Hydra and the command line set in a process that they take for their own."""
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    excepthook = sys.excepthook
    streams = sys.stdout, sys.stderr
    num_threads = torch.get_num_threads()
    folder = Path.cwd()
    if cwd is not None:
        os.chdir(cwd)

    try:
        yield
    finally:
        os.chdir(folder)
        # train.log is still open
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.raiseExceptions = raises
        sys.excepthook = excepthook
        sys.stdout, sys.stderr = streams
        torch.set_num_threads(num_threads)
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None
