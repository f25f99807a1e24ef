"""The trainer: its settings, and how a training starts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from miniclip.distributed import World
from miniclip.errors import SettingError, above_zero, at_least, one_of
from miniclip.runs import JsonlLogger, RunDirectory
from miniclip.training.budget import Budget
from miniclip.training.checkpointer import Checkpointer, SaveSettings
from miniclip.training.device import find_device
from miniclip.training.gradient_cache import check_rows_of_statistics
from miniclip.training.loop import FitResult, Loop
from miniclip.training.plan import check_batches_fit, check_same_data
from miniclip.training.progress import Progress, Stopwatch
from miniclip.training.reproducibility import deterministic_algorithms
from miniclip.training.resuming import AUTO
from miniclip.training.setup import TrainingSetup
from miniclip.training.tower_features import on_features

LEAST_LIMIT_OF_WORKERS = 64
"""So many workers are allowed on every machine: a config may have been made on a larger one."""


class Trainer:
    """Trains the parts of a setup and writes its run directory.

    Args:
        budget: how long it trains.
        batch_size: images per batch, each with one caption; the others in it are the negatives.
        accumulate_steps: batches per step; their gradients add up to the mean.
        micro_batch_size: the most images that go through the towers at a time; null takes the whole batch.
            The loss still sees the whole batch, so that batches can be larger than memory, for a second
            forward pass. Batch norm sees the statistics of a micro-batch. From `batch_size` on it has no
            effect.
        max_skipped_steps: stop after more than so many steps in a row were skipped because a gradient was
            not finite.
        grad_clip_norm: longest gradient; null does not clip.
        sync_batch_norm: of several processes that train together, take batch norm's mean and variance over
            the images of all. If not, each takes those of its own, and the running ones are averaged.
        validate_every_epochs: epochs between validations; the last epoch is always validated.
        checkpoint_every_epochs: epochs between checkpoints that are kept, as epoch_0010.pt.
        checkpoint_every_steps: steps between saves of last.pt inside an epoch; null saves at its end only.
            Each validation saves it as well, and so does the end of each epoch, but where an epoch is so
            short that saving would take more than a twentieth of the time.
        checkpoint_every_minutes: minutes between such saves, or null.
        save_in_background: write checkpoints in a thread while training goes on. That costs memory for a
            copy of weights and moments, one at a time.
        keep_last: how many checkpoints that last.pt has replaced stay, as step_00001200.pt, until the run
            ends: what is gone on from where last.pt is damaged.
        keep_best: how many of the best validations' checkpoints stay: best.pt, and of more than one each
            as best_00001200.pt.
        on_save_error: "raise" ends the run when a checkpoint cannot be written, "warn" trains on and tries
            again at the next one. The end of a run is an error if it cannot be written, either way.
        num_workers: processes that read images; 0 reads in the main process. The most are 64, or four per
            processor where that is more.
        device: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", ...
        compile: let torch.compile make kernels for both towers, and for a loss in tiles. That takes a
            minute or so at the first steps, and wants a C++ compiler, on a GPU Triton; sums differ in their
            last bits.
        cuda_graphs: on a GPU, record the kernels of a batch once and launch them as one, where the host is
            slower than the GPU. Results are the same to the bit; gradients take twice the memory. Muon
            has crashed under it: see experiments/LOG.md, 2026-11-27.
        images_on_gpu: hold the training images in the GPU's memory where they are decoded once
            (`data.cache`) and take no more than a quarter of what is free there.
        profile: time the phases of some steps, count their arithmetic, and write trace.json.gz of a few;
            the log and summary.json tell what was found. See `miniclip.training.profiler`.
        deterministic: take only operators that give the same bits each time, those of cuDNN and cuBLAS
            among them, at some cost in speed. One that has no such form is told by name and runs as it
            is. On the CPU a run repeats itself to the bit without this. TF32 stays as it is.
        resume: null, the path of a checkpoint or run directory, or "auto": this run directory's last
            checkpoint, else that of the newest run beside it that is of the same settings and was
            interrupted or killed, else a fresh start. See `miniclip.training.changed_settings` for what may
            differ.

    Raises:
        SettingError: when a number is out of range or the device is not there.
    """

    def __init__(
        self,
        *,
        budget: Budget,
        batch_size: int,
        accumulate_steps: int,
        micro_batch_size: int | None,
        max_skipped_steps: int,
        grad_clip_norm: float | None,
        sync_batch_norm: bool = False,
        validate_every_epochs: int,
        checkpoint_every_epochs: int,
        checkpoint_every_steps: int | None,
        checkpoint_every_minutes: float | None,
        save_in_background: bool,
        keep_last: int,
        keep_best: int,
        on_save_error: Literal["raise", "warn"],
        num_workers: int,
        device: str,
        deterministic: bool,
        compile: bool = False,
        cuda_graphs: bool = False,
        images_on_gpu: bool = True,
        profile: bool = False,
        resume: str | None,
    ):
        for setting, value, least in (
            ("batch_size", batch_size, 2),
            ("accumulate_steps", accumulate_steps, 1),
            ("micro_batch_size", micro_batch_size, 1),
            ("max_skipped_steps", max_skipped_steps, 0),
            ("validate_every_epochs", validate_every_epochs, 1),
            ("checkpoint_every_epochs", checkpoint_every_epochs, 1),
            ("checkpoint_every_steps", checkpoint_every_steps, 1),
            ("keep_last", keep_last, 0),
            ("keep_best", keep_best, 1),
            ("num_workers", num_workers, 0),
        ):
            if value is not None:
                at_least(setting, value, least)
        _check_workers(num_workers)
        if grad_clip_norm is not None:
            above_zero("grad_clip_norm", grad_clip_norm, hint=", or null")
        if checkpoint_every_minutes is not None:
            above_zero("checkpoint_every_minutes", checkpoint_every_minutes, hint=", or null")
        one_of("on_save_error", on_save_error, ("raise", "warn"))

        self.budget = budget
        self.batch_size = batch_size
        self.accumulate_steps = accumulate_steps
        self.micro_batch_size = micro_batch_size
        self.max_skipped_steps = max_skipped_steps
        self.grad_clip_norm = grad_clip_norm
        self.sync_batch_norm = sync_batch_norm
        self.validate_every_epochs = validate_every_epochs
        self.saving = SaveSettings(
            every_epochs=checkpoint_every_epochs,
            every_steps=checkpoint_every_steps,
            every_minutes=checkpoint_every_minutes,
            in_background=save_in_background,
            keep_last=keep_last,
            keep_best=keep_best,
            on_error=on_save_error,
        )
        self.num_workers = num_workers
        self.device = find_device(device)
        self.deterministic = deterministic
        self.compile = compile
        self.cuda_graphs = cuda_graphs
        self.images_on_gpu = images_on_gpu
        self.profile = profile
        self._check_cuda_graphs()
        self.resume = resume

    def _check_cuda_graphs(self) -> None:
        """Refuse CUDA graphs where none can be recorded."""
        if not self.cuda_graphs:
            return
        if self.device.type != "cuda":
            allowed = f"needs a CUDA GPU, and device is {self.device}: take false"
            raise SettingError("cuda_graphs", True, allowed)
        if self.micro_batch_size is not None:
            raise SettingError("cuda_graphs", True, "does not go with micro_batch_size: take one of them")
        if not World.current().is_alone:
            raise SettingError("cuda_graphs", True, "is for one process: take false, or compile=true")

    def fit(
        self,
        setup: TrainingSetup,
        run: RunDirectory,
        logger: JsonlLogger,
        *,
        checkpoint: Path | None = None,
    ) -> FitResult:
        """Train to the end; the model ends with the weights of its best checkpoint.

        Args:
            checkpoint: to go on from; see `miniclip.training.resuming.find_checkpoint`.

        Raises:
            SettingError: when a batch is larger than the training set, or a micro-batch too small.
            UserError: when the checkpoint is of another run.
            Diverged: when values that are not finite end the run.
            DiskError: when a checkpoint cannot be written.
            Interrupted: on Ctrl-C or termination, after `last.pt` was saved.
        """
        with self._loop(setup, run, logger, checkpoint) as loop:
            return loop.run_to_end()

    def train_along(
        self,
        setup: TrainingSetup,
        run: RunDirectory,
        logger: JsonlLogger,
        *,
        checkpoint: Path | None = None,
    ) -> None:
        """Train as one of several processes, beside the main one that `fit`s; see there.

        Args:
            run: of this process alone, for what the main one writes into the run's own.
        """
        with self._loop(setup, run, logger, checkpoint) as loop:
            loop.train_along()

    @contextmanager
    def _loop(
        self, setup: TrainingSetup, run: RunDirectory, logger: JsonlLogger, checkpoint: Path | None
    ) -> Iterator[Loop]:
        """The loop of a run, which stands where its checkpoint does."""
        world = World.current()
        check_same_data(setup, world)
        check_batches_fit(
            len(setup.train_set),
            batch_size=self.batch_size,
            accumulate_steps=self.accumulate_steps,
        )
        check_rows_of_statistics(
            setup.model,
            batch_size=self.batch_size,
            micro_batch_size=self.micro_batch_size,
            world=world,
            synced=self.sync_batch_norm,
        )
        clock, progress = Stopwatch(), Progress()
        checkpointer = Checkpointer(setup, run, progress, self.saving, writes=world.is_main)
        if checkpoint is not None:
            checkpointer.resume(checkpoint, must_be_same=self.resume == AUTO)
        clock.before = progress.total_seconds

        with deterministic_algorithms(self.deterministic):
            # with the weights of the checkpoint
            if setup.feature_folder is not None:
                with world.main_first():
                    setup = on_features(setup, device=self.device, num_workers=self.num_workers)
            yield Loop(self, setup, run, logger, checkpointer, clock, world)


def _check_workers(num_workers: int) -> None:
    """Refuse a number of processes that a machine takes minutes to start, or dies of.

    Raises:
        SettingError: names the machine's processors.
    """
    num_processors = os.cpu_count() or 1
    most = max(LEAST_LIMIT_OF_WORKERS, 4 * num_processors)
    if num_workers > most:
        allowed = f"must be at most {most}; this machine has {num_processors} processors"
        raise SettingError("num_workers", num_workers, allowed)
