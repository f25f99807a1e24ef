"""The trainer: its settings, and how a training starts."""

from pathlib import Path

from miniclip.errors import SettingError
from miniclip.runs import JsonlLogger, RunDirectory
from miniclip.training.budget import Budget
from miniclip.training.checkpointer import Checkpointer
from miniclip.training.device import find_device
from miniclip.training.loop import FitResult, Loop
from miniclip.training.plan import check_batches_fit
from miniclip.training.progress import Progress, Stopwatch
from miniclip.training.reproducibility import deterministic_algorithms
from miniclip.training.resuming import AUTO
from miniclip.training.setup import TrainingSetup
from miniclip.training.tower_features import on_features


class Trainer:
    """Trains the parts of a setup and writes its run directory.

    Args:
        budget: how long it trains.
        batch_size: images per batch, each with one caption; the others in it are the negatives.
        accumulate_steps: batches per step; their gradients add up to the mean.
        max_skipped_steps: stop after more than so many steps in a row were skipped because a gradient was
            not finite.
        grad_clip_norm: longest gradient; null does not clip.
        validate_every_epochs: epochs between validations; the last epoch is always validated.
        checkpoint_every_epochs: epochs between checkpoints that are kept; last and best always are.
        num_workers: processes that read images; 0 reads in the main process.
        device: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", ...
        deterministic: take only operators that give the same bits each time, those of cuDNN and cuBLAS
            among them, at some cost in speed. One that torch has in no such form is told by name and runs as
            it is. On the CPU a run repeats itself to the bit without this. TF32 stays as it is.
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
        max_skipped_steps: int,
        grad_clip_norm: float | None,
        validate_every_epochs: int,
        checkpoint_every_epochs: int,
        num_workers: int,
        device: str,
        deterministic: bool,
        resume: str | None,
    ):
        for setting, value, least in (
            ("batch_size", batch_size, 2),
            ("accumulate_steps", accumulate_steps, 1),
            ("max_skipped_steps", max_skipped_steps, 0),
            ("validate_every_epochs", validate_every_epochs, 1),
            ("checkpoint_every_epochs", checkpoint_every_epochs, 1),
            ("num_workers", num_workers, 0),
        ):
            if value < least:
                raise SettingError(setting, value, f"must be at least {least}")
        if grad_clip_norm is not None and not grad_clip_norm > 0:
            raise SettingError("grad_clip_norm", grad_clip_norm, "must be above 0, or null")

        self.budget = budget
        self.batch_size = batch_size
        self.accumulate_steps = accumulate_steps
        self.max_skipped_steps = max_skipped_steps
        self.grad_clip_norm = grad_clip_norm
        self.validate_every_epochs = validate_every_epochs
        self.checkpoint_every_epochs = checkpoint_every_epochs
        self.num_workers = num_workers
        self.device = find_device(device)
        self.deterministic = deterministic
        self.resume = resume

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
            SettingError: when a batch is larger than the training set.
            UserError: when the checkpoint is of another run.
            Diverged: when values that are not finite end the run.
            Interrupted: on Ctrl-C or termination, after `last.pt` was saved.
        """
        check_batches_fit(
            len(setup.train_set),
            batch_size=self.batch_size,
            accumulate_steps=self.accumulate_steps,
        )
        clock, progress = Stopwatch(), Progress()
        checkpointer = Checkpointer(setup, run, progress, every_epochs=self.checkpoint_every_epochs)
        if checkpoint is not None:
            checkpointer.resume(checkpoint, must_be_same=self.resume == AUTO)
        clock.before = progress.total_seconds

        with deterministic_algorithms(self.deterministic):
            # with the weights of the checkpoint
            if setup.feature_folder is not None:
                setup = on_features(setup, device=self.device, num_workers=self.num_workers)
            return Loop(self, setup, run, logger, checkpointer, clock).run_to_end()
