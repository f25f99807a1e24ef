"""Several processes that train one run together, as torchrun, srun and submitit start them.

The first of them is the main process, which does all that a process alone does. The others follow: they
train along, write into a directory of their own that is thrown away, show no bars, and log errors only.
"""

import atexit
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from miniclip.commands.slurm import tell_of_separate_tasks
from miniclip.errors import UserError, first_line
from miniclip.stop_signals import stop_signals

if TYPE_CHECKING:
    from miniclip.distributed import World

PATIENCE = timedelta(days=1)
"""How long a process waits for the others: as long as the main one validates, or builds a cache."""

MAIN_FIRST_SECONDS = 5.0
"""How much later a follower tells an error than the main process, whose end is that of all."""


OF_EACH_STEP = ("trainer.budget", "trainer.max_skipped_steps")
"""Settings by which learning rates and the end of training go, which a resumed run may change."""


class Place(NamedTuple):
    """One of several processes, as its launcher numbers them.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
    """

    rank: int
    size: int


class Order(NamedTuple):
    """What the main process has its followers do.

    Attributes:
        checkpoint: to go on from; None for a fresh start.
    """

    checkpoint: Path | None


def place() -> Place | None:
    """This process's place among several; None where it is alone."""
    _ask_submitit()
    rank, size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    if not rank.isdigit() or not size.isdigit() or int(size) < 2:
        return None
    return Place(int(rank), int(size))


def words_of_several(words: Sequence[str]) -> list[str]:
    """What was typed, as this one of several processes is to read it.

    Raises:
        UserError: for a sweep, whose jobs the processes of torchrun cannot share.
    """
    if _is_of_submitit():
        return list(words)
    own = place()
    if own is None:
        tell_of_separate_tasks()
        return list(words)
    if {"-m", "--multirun"} & set(words):
        raise UserError(
            f"torchrun started {own.size} processes, which train one run, no sweep. Start a sweep with "
            "python run.py -m; hydra.launcher.tasks_per_node gives each job of submitit_slurm several."
        )

    words = [*words, *_resumed_after_restart(own, words)]
    if own.rank == 0:
        return words
    scratch = tempfile.mkdtemp(prefix="miniclip-process-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    words = [word for word in words if not word.startswith("hydra.run.dir=")]
    return [*words, f"hydra.run.dir={scratch}", "hydra.output_subdir=null"]


def be_quiet() -> None:
    """Leave the console and the run's log to the main process, if this is a follower."""
    own = place()
    if own is None or own.rank == 0:
        return
    os.environ["TQDM_DISABLE"] = "1"
    root = logging.getLogger()
    root.setLevel(logging.ERROR)
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler):
            root.removeHandler(handler)
            handler.close()
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process
    stop_signals.says_stopped = False


def exit_telling(text: str) -> NoReturn:
    """End with an error; where the main process has the same, it tells it and ends all."""
    own = place()
    if own is None or own.rank == 0:
        sys.exit(f"Error: {text}")
    time.sleep(MAIN_FIRST_SECONDS)
    sys.exit(f"Error of process {own.rank}, counted from 0, of {own.size}: {text}")


class Followers:
    """The processes beside the main one, as both sides see them.

    Args:
        world: all of them.
    """

    def __init__(self, world: "World"):
        self.world = world
        self._wait = not world.is_alone

    def check_settings(self, config: Any) -> None:
        """Refuse to train together with other settings.

        Raises:
            UserError: in all processes; names a setting and both values.
        """
        if self.world.is_alone:
            return
        from miniclip.training.changed_settings import changed_settings, differing

        configs = self.world.of_all(config)
        for rank, other in enumerate(configs):
            # what a resumed run is free to change decides with these how its steps go
            lengths = differing(configs[0], other, OF_EACH_STEP)
            for change in [*changed_settings(configs[0], other), *lengths]:
                raise UserError(
                    f"The processes have different settings: {change.setting} is {change.theirs} in the "
                    f"main one, {change.ours} in process {rank}. Start them with the same command."
                )

    def begin(self, checkpoint: Path | None) -> None:
        """Have them train, now that data and caches are there."""
        self._send(Order(checkpoint))

    def dismiss(self) -> None:
        """Have them end, if they were not told to train."""
        if self._wait:
            self._send(None)

    def wait_for_order(self) -> Order | None:
        """What the main process has this one do; None for nothing."""
        return self.world.from_main(None)

    def _send(self, order: Order | None) -> None:
        self._wait = False
        self.world.from_main(order)


@contextmanager
def joined() -> Iterator[Followers]:
    """A context in which this process is one of those that its launcher started, or alone."""
    import torch
    import torch.distributed as dist

    from miniclip.distributed import World

    own = place()
    if own is None:
        yield Followers(World())
        return

    be_quiet()
    # numbers of the host go through gloo, for which no GPU is waited
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    _meet(own, backend)
    followers = Followers(World.current())
    try:
        yield followers
        if own.rank == 0:
            followers.dismiss()
    finally:
        dist.destroy_process_group()


def _meet(own: Place, backend: str) -> None:
    """Begin torch's group of the processes.

    Raises:
        UserError: when they do not find each other.
    """
    import torch.distributed as dist

    from miniclip.commands.rendezvous import is_kept_by_torchrun, store_of_start

    try:
        store, *_ = next(dist.rendezvous("env://", own.rank, own.size, timeout=PATIENCE))
        if is_kept_by_torchrun():
            store = store_of_start(store, rank=own.rank, size=own.size)
        dist.init_process_group(backend, store=store, rank=own.rank, world_size=own.size, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
        raise UserError(
            f"The {own.size} processes that are to train together have not met at {address} "
            f"(MASTER_ADDR:MASTER_PORT): {first_line(error)}"
        ) from error


def _resumed_after_restart(own: Place, words: Sequence[str]) -> list[str]:
    """The setting by which processes go on that torchrun has started again."""
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if restarts == "0" or any(word.startswith("trainer.resume=") for word in words):
        return []
    if own.rank == 0:
        print(f"Started again by torchrun ({restarts}): trainer.resume=auto", file=sys.stderr)
    return ["trainer.resume=auto"]


def _ask_submitit() -> None:
    """Put what submitit knows of this process's place where torchrun would."""
    if not _is_of_submitit() or "RANK" in os.environ:
        return
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    if JobEnvironment().num_tasks > 1:
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)


def _is_of_submitit() -> bool:
    return "SUBMITIT_EXECUTOR" in os.environ
