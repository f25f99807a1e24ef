"""The loop of epochs, validations and checkpoints that a trainer runs."""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch

from miniclip.data.loader import Loader
from miniclip.disk_errors import DiskError
from miniclip.distributed import World
from miniclip.errors import BrokenImage, as_override, counted
from miniclip.metrics import Features
from miniclip.models.synced_batch_norm import synced_batch_norms
from miniclip.optim import set_learning_rate
from miniclip.runs import JsonlLogger, RunDirectory
from miniclip.stop_signals import stop_signals
from miniclip.training.budget import Budget
from miniclip.training.checkpointer import Checkpointer
from miniclip.training.guards import BrokenImages, TooManyBroken, TooManySkipped, check_weights
from miniclip.training.interruption import Interrupted, Interruption
from miniclip.training.phases import phase
from miniclip.training.plan import Plan
from miniclip.training.profiler import StepProfiler
from miniclip.training.progress import Stopwatch
from miniclip.training.recorder import Recorder
from miniclip.training.reproducibility import seed_step
from miniclip.training.rows_of_all import rows_of_all
from miniclip.training.setup import TrainingSetup
from miniclip.training.step import TrainingStep
from miniclip.training.summary import summary_of
from miniclip.training.validation import SplitEncoder, Validation

log = logging.getLogger(__name__)


class FitResult(NamedTuple):
    """Result of `Trainer.fit`.

    Attributes:
        summary: what `summary.json` holds: the best validation record and what it cost.
        features: the validation split as the best checkpoint sees it.
    """

    summary: dict[str, Any]
    features: Features


class LoopSettings(Protocol):
    """What the loop reads of a trainer's settings."""

    budget: Budget
    batch_size: int
    accumulate_steps: int
    micro_batch_size: int | None
    compile: bool
    cuda_graphs: bool
    images_on_gpu: bool
    profile: bool
    max_skipped_steps: int
    grad_clip_norm: float | None
    sync_batch_norm: bool
    validate_every_epochs: int
    num_workers: int
    device: torch.device


class Loop:
    """One call of `Trainer.fit`: train, validate and save epoch by epoch; tell what came of it."""

    def __init__(
        self,
        trainer: LoopSettings,
        setup: TrainingSetup,
        run: RunDirectory,
        logger: JsonlLogger,
        checkpointer: Checkpointer,
        clock: Stopwatch,
        world: World,
    ):
        self.world = world
        self.trainer = trainer
        self.setup = setup
        self.run = run
        self.checkpointer = checkpointer
        self.clock = clock
        self.progress = checkpointer.progress
        self.interruption = Interruption(world)
        self.broken_images = BrokenImages(setup.train_set, self.progress)
        self.batches = setup.train_set.batches(
            batch_size=trainer.batch_size,
            seed=setup.config["seed"],
            accumulate_steps=trainer.accumulate_steps,
            world=world,
        )
        self.loader = Loader(
            setup.train_set,
            self.batches,
            tokenizer=setup.tokenizer,
            device=trainer.device,
            num_workers=trainer.num_workers,
            keeps_pixels=trainer.micro_batch_size is not None,
            resides=trainer.images_on_gpu,
        )
        self.step = TrainingStep(
            setup.model,
            setup.loss,
            setup.optimizer,
            setup.precision,
            grad_clip_norm=trainer.grad_clip_norm,
            micro_batch_size=trainer.micro_batch_size,
            compiles=trainer.compile,
            cuda_graphs=trainer.cuda_graphs,
            world=world,
        )
        self.profiler: StepProfiler | None = None
        if trainer.profile and world.is_main:
            self.profiler = StepProfiler(
                trainer.device,
                setup.precision.dtype,
                images_per_step=self.batches.images_per_step,
                progress=self.progress,
                trace=run.trace,
            )
        self.recorder = Recorder(
            logger,
            self.progress,
            run,
            train_set=setup.train_set,
            max_skipped_steps=trainer.max_skipped_steps,
        )
        encoder = SplitEncoder(
            setup,
            setup.val_set,
            device=trainer.device,
            batch_size=trainer.batch_size,
            num_workers=trainer.num_workers,
            micro_batch_size=trainer.micro_batch_size,
        )
        self.validation = Validation(setup, encoder, logger, self.progress)

    def run_to_end(self) -> FitResult:
        """Train, and tell what came of it."""
        trainer, progress = self.trainer, self.progress
        with self._begun():
            self._train_to_end()
            self.broken_images.log_sum()
            # of the whole model, also where the loop sees none of its frozen towers
            whole = self.checkpointer.setup
            summary = summary_of(whole, progress, seconds=self.clock.seconds, device=trainer.device)
            if self.profiler is not None:
                summary["profile"] = self.profiler.result()
            self.run.write_summary(summary)
            self.checkpointer.load_best()
            self.checkpointer.keep_finished()
            return FitResult(summary, self.validation.encode())

    def train_along(self) -> None:
        """Train as one of several processes whose main one validates, saves and tells."""
        with self._begun():
            self._train_to_end()

    @contextmanager
    def _begun(self) -> Iterator[None]:
        """Plan the run, and open what reads its images and what times its steps."""
        trainer, progress = self.trainer, self.progress
        self.plan = Plan(
            trainer.budget,
            self.batches,
            progress,
            self.setup.optimizer,
            accumulate_steps=trainer.accumulate_steps,
        )
        self.batches.start_at(progress.epoch, progress.position)
        self.reading = iter(self.loader)
        profiler = nullcontext() if self.profiler is None else closing(self.profiler)
        with profiler, closing(self.batches), closing(self.loader), closing(self.validation.encoder):
            yield

    def _train_to_end(self) -> None:
        """Train; save where a signal, or what the weights are not to blame for, ends it before."""
        with stop_signals.caught():
            try:
                synced = self.trainer.sync_batch_norm and not self.world.is_alone
                with stop_signals.deferred(), synced_batch_norms(self.setup.model, self.world, synced):
                    self._train()
                    self._finish_saving()
            except Interrupted:
                self._save_before_stop()
                again = as_override("trainer.resume", self.run.path)
                log.warning("Interrupted at step %d. Go on with: %s", self.progress.step, again)
                raise
            except (TooManyBroken, TooManySkipped):
                self._save_before_stop()
                raise

    def _train(self) -> None:
        """Train until the budget is used up."""
        progress = self.progress
        if progress.validation_due:  # it was interrupted
            self._validate_and_save()
        elif self.plan.is_done:
            log.warning(
                "Nothing is trained: the %s of the checkpoint have used up trainer.budget.",
                counted(progress.step, "step"),
            )

        while not self.plan.is_done:
            self._train_epoch()
            is_due = progress.epoch % self.trainer.validate_every_epochs == 0 and progress.position == 0
            progress.validation_due = self.plan.is_done or is_due
            if progress.validation_due:
                self._validate_and_save()
            elif self.checkpointer.is_due_after_epoch:
                self._save()
                self.checkpointer.keep(is_best=False, was_validated=False)

        # as many steps as a smaller budget than before, or an older version, left unvalidated
        if progress.validated_step != progress.step:
            self._validate_and_save()

    def _train_epoch(self) -> None:
        """Train one epoch, or what is left of it in the epoch and in the budget."""
        progress = self.progress
        clock = Stopwatch(before=progress.seconds)
        self.setup.model.train()

        title = self.plan.title(progress.epoch + 1)
        with self.recorder.epoch(title, num_images=self.batches.num_images) as bar:
            while self.batches.steps_left(progress.position) > 0:
                with nullcontext() if self.profiler is None else self.profiler.step():
                    self._train_step(clock)
                bar.update(self.batches.images_per_step)
                if self.plan.is_done:
                    break
                self._save_if_due()

        progress.seconds = self._agreed_seconds(clock)
        if self.batches.steps_left(progress.position) == 0:
            progress.epoch, progress.position = progress.epoch + 1, 0

    def _train_step(self, clock: Stopwatch) -> None:
        """Read the batches of a step, train on them, and record."""
        setup, progress = self.setup, self.progress
        with phase("data"):
            batches = list(islice(self.reading, self.trainer.accumulate_steps))
        self._hear_of_others([problem for batch in batches for problem in batch.problems])

        done, total = self.plan.done_of_total
        set_learning_rate(setup.optimizer, setup.schedule.factor(done, total))
        setup.optimizer.fraction_done = done / total
        if not self.world.is_main:
            seed_step(setup.config["seed"], rank=self.world.rank, step=progress.step)
        result = self.step(batches)

        num_batches = result.num_passes * len(batches)
        progress.forward_passes = (progress.forward_passes or 0) + num_batches
        progress.step += 1
        progress.position += self.batches.images_per_step
        progress.images += self.batches.images_per_step
        progress.seconds = self._agreed_seconds(clock)
        self.batches.trained_on(len(batches))
        compares_all = setup.loss.gather == "global"
        rows = rows_of_all(batches, self.world, compares_all=compares_all)
        self.recorder.add(
            result,
            lr=setup.optimizer.param_groups[0]["lr"],
            image_ids=rows.image_ids,
            num_false_negatives=rows.num_false_negatives,
        )

    def _hear_of_others(self, problems: list[BrokenImage]) -> None:
        """Stop where a signal has come to some process, or too many images of all are broken."""
        num_signals, num_problems = self.world.sums([self.interruption.is_due, len(problems)])
        self.interruption.heed(num_signals > 0)
        if num_problems > 0:  # seldom, so that they are not sent with each step
            problems = [problem for of_one in self.world.of_all(problems) for problem in of_one]
        self.broken_images.count(problems)

    def _agreed_seconds(self, clock: Stopwatch) -> float:
        """The time of training; where it ends the run, that of the main process for all."""
        if self.trainer.budget.seconds is None:
            return clock.seconds
        return self.world.from_main(clock.seconds)

    def _save_if_due(self) -> None:
        """Save inside an epoch; its end is saved anyway."""
        is_inside = self.batches.steps_left(self.progress.position) > 0
        if is_inside and self.checkpointer.is_due:
            self.recorder.read()  # what is not yet counted and logged would be lost
            self._save()

    def _validate_and_save(self) -> None:
        self._check_weights()
        if not self.world.is_main:  # the main process does it for all
            self.progress.validated_step, self.progress.validation_due = self.progress.step, False
            return
        self.checkpointer.wait()  # workers are forks, which a thread that writes could lock up
        best_before = self.progress.best
        is_best = self.validation(epoch=self.plan.title(self.progress.epochs_begun))
        self._save()
        if not self.checkpointer.keep(is_best=is_best) and is_best:
            log.warning("The weights of step %d, the best until now, are not saved.", self.progress.step)
            self.progress.best = best_before

    def _save(self) -> None:
        self._check_weights()
        self.progress.total_seconds = self.clock.seconds
        self.checkpointer.save()

    def _finish_saving(self) -> None:
        """See to it that the end of the run is saved.

        Raises:
            DiskError: when it cannot be, whatever `trainer.on_save_error` says.
        """
        checkpointer = self.checkpointer
        checkpointer.wait()
        if checkpointer.failure is not None:
            self._save()
            checkpointer.wait()
        if checkpointer.failure is not None:
            raise checkpointer.failure

    def _save_before_stop(self) -> None:
        """Save where a run ends early; why it does is more than that it cannot be saved."""
        try:
            self._save()
            self.checkpointer.wait()
        except DiskError as error:
            log.error("%s", error)

    def _check_weights(self) -> None:
        check_weights(
            self.setup.model,
            step=self.progress.step,
            last_checkpoint=self.run.last_checkpoint,
        )
