"""Processes that train together, forked from one that has imported all: each starts in milliseconds."""

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SECONDS = 150


@cache
def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tests.distributed.steps", "miniclip.commands.job", "miniclip.commands.train"]
    )
    return context


class Child:
    """One of several processes.

    Attributes:
        process: as multiprocessing knows it.
        output: the file of all that it prints.
    """

    def __init__(self, process: BaseProcess, output: Path):
        self.process = process
        self.output = output

    def end(self) -> int:
        """Its exit status, once it has ended."""
        self.process.join(SECONDS)
        assert self.process.exitcode is not None, f"still there: {self.output.read_text()}"
        return self.process.exitcode

    def said(self) -> str:
        """All that it printed, once it has ended."""
        self.end()
        return self.output.read_text()


@contextmanager
def children(
    folder: Path, function: Callable[..., object], arguments: list[tuple[Any, ...]], **env: str
) -> Iterator[list[Child]]:
    """As many processes as arguments, as torchrun would start them, and none that is left behind."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(len(arguments)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **env}

    started: list[Child] = []
    for rank, own in enumerate(arguments):
        output = folder / f"output_{port}_{rank}.txt"
        output.touch()  # it may be ended before it says anything
        places = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = _server().Process(target=_run, args=(folder, output, places, function, own))
        process.start()
        started.append(Child(process, output))
    try:
        yield started
    finally:
        for child in started:
            child.process.kill()
            child.process.join()


def train_with(*settings: str) -> None:
    """`python run.py SETTINGS`."""
    from miniclip.commands.train import train

    sys.argv = ["run.py", *settings]
    train()


def _run(
    folder: Path,
    output: Path,
    environment: dict[str, str],
    function: Callable[..., object],
    arguments: tuple[Any, ...],
) -> None:
    import torch

    os.chdir(folder)
    os.environ.update(environment)
    torch.set_num_threads(1)
    with output.open("w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        try:
            function(*arguments)
        except SystemExit as end:  # as Python itself does, before the file is closed
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
            status = 1
        else:
            status = 0
        sys.stderr.flush()
        os._exit(status)
