"""The training loop: epochs, validation, checkpoints, and going on after an interruption."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from miniclip.data.dataset import ImageTextDataset, by_reason
from miniclip.data.loader import Batch, EpochBatches, Loader, sequential_batches
from miniclip.errors import SettingError, UserError, as_override, counted
from miniclip.files import within
from miniclip.metrics import Features, encode, health, protocol_name, recall_line, retrieval_metrics
from miniclip.models import MiniCLIP, inputs_of
from miniclip.models.image_encoder import adopt_preprocessing
from miniclip.optim import SAM, Schedule, set_learning_rate
from miniclip.runs import JsonlLogger, RunDirectory
from miniclip.tokenizers import Tokenizer
from miniclip.training.budget import Budget
from miniclip.training.checkpoint import (
    copy_checkpoint,
    fitting,
    load_checkpoint,
    load_model,
    save_checkpoint,
)
from miniclip.training.guards import Diverged, all_finite
from miniclip.training.interruption import Interrupted, Interruption, ignore_in_worker
from miniclip.training.precision import Precision
from miniclip.training.progress import Progress
from miniclip.training.reproducibility import random_state, set_random_state
from miniclip.training.resuming import (
    carry_on_metrics,
    carry_on_skipped,
    changed_settings,
    check_changes,
    check_same_settings,
    is_checkpoint_of,
    load_optimizer,
)
from miniclip.training.step import StepResult, TrainingStep

log = logging.getLogger(__name__)

DEVICES = "must be auto, cpu, mps, or cuda, cuda:1 and so on"

READ_EVERY_STEPS = 10
"""How often results are read from the device; each reading waits for it."""

MAX_SKIPS_TOLD = 5
MAX_IMAGES_TOLD = 8
"""How many skipped steps of a run are told in the log, and how many images of each."""

REMEDY = "Lower the learning rate or rho, warm up longer, or try precision=fp32."


@dataclass(frozen=True)
class TrainingSetup:
    """The built parts of one run.

    Attributes:
        config: the resolved config as plain data, kept in every checkpoint.
        preprocessing: what an image needs before the model sees it, as plain data.
        measures: what else each validation records, from the validation split's features.
        test_set: what the best checkpoint is measured on, once; training never looks at it.
        signature: of the config's data, by the user's key, kept in every checkpoint; None without a key.
    """

    config: dict[str, Any]
    model: MiniCLIP
    tokenizer: Tokenizer
    train_set: ImageTextDataset
    val_set: ImageTextDataset
    loss: Callable[..., Tensor]
    optimizer: Optimizer
    schedule: Schedule
    precision: Precision
    preprocessing: dict[str, Any]
    measures: Sequence[Callable[[Features], dict[str, float]]] = ()
    test_set: ImageTextDataset | None = None
    signature: str | None = None


class _Stopped(UserError):
    """The run goes on no further; its last checkpoint is to be saved."""


class _Unread(NamedTuple):
    """A step whose results are still on the device.

    Attributes:
        record: what is known of it on the host.
        places: for each micro-batch the places of its images in their split, (B,) int64 on the host.
    """

    record: dict[str, Any]
    result: StepResult
    places: list[Tensor]


class FitResult(NamedTuple):
    """What training leaves.

    Attributes:
        summary: what `summary.json` holds: the best validation record and what it cost.
        features: the validation split as the best checkpoint sees it.
    """

    summary: dict[str, Any]
    features: Features


class Trainer:
    """Trains an experiment and writes its run directory.

    Args:
        budget: how long it trains.
        batch_size: images a batch, each with one caption; the others in it are the negatives.
        accumulate_steps: batches an update; their gradients add up to the mean.
        max_skipped_steps: stop after more than so many updates in a row were skipped because a gradient
            was not finite.
        grad_clip_norm: longest gradient; null does not clip.
        validate_every_epochs: epochs between validations; the last epoch is always validated.
        checkpoint_every_epochs: epochs between checkpoints that are kept; last and best always are.
        num_workers: processes that read images; 0 reads in the main process.
        device: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", ...
        resume: null, the path of a checkpoint or run directory, or "auto": this run directory's last
            checkpoint, else that of the newest run beside it that is of the same settings and was
            interrupted or killed, else a fresh start. See `miniclip.training.resuming` for what may differ.

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
        self.resume = resume

    def fit(
        self,
        experiment: TrainingSetup,
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
        return _Fit(self, experiment, run, logger, checkpoint).run_to_end()


class _Fit:
    """One call of `Trainer.fit`: the state that lives as long as the run."""

    def __init__(
        self,
        trainer: Trainer,
        experiment: TrainingSetup,
        run: RunDirectory,
        logger: JsonlLogger,
        checkpoint: Path | None,
    ):
        num_images = len(experiment.train_set)
        for setting, images_needed in (
            ("batch_size", trainer.batch_size),
            ("accumulate_steps", trainer.batch_size * trainer.accumulate_steps),
        ):
            if images_needed > num_images:
                raise SettingError(
                    f"trainer.{setting}",
                    getattr(trainer, setting),
                    f"is larger than the training set of {counted(num_images, 'image')}"
                    if setting == "batch_size"
                    else f"asks for {counted(images_needed, 'image')} per update, of {num_images:,}",
                )
        self.trainer = trainer
        self.experiment = experiment
        self.run = run
        self.logger = logger
        self.checkpoint = checkpoint
        self.preprocessing = dict(experiment.preprocessing)
        self.device = trainer.device
        self.progress = Progress()
        self.interruption = Interruption()
        self.batches = EpochBatches(
            num_images,
            batch_size=trainer.batch_size,
            seed=experiment.config["seed"],
            accumulate_steps=trainer.accumulate_steps,
        )
        splits = {"train": experiment.train_set.split, "val": experiment.val_set.split}
        self.data = {name: split.fingerprint() for name, split in splits.items()}
        self.total_steps: int | None = None
        self.num_epochs = 0
        reading = partial(
            Loader, device=self.device, num_workers=trainer.num_workers, worker_init=ignore_in_worker
        )
        self.train_loader = reading(experiment.train_set, self.batches)
        self.val_loader = reading(
            experiment.val_set, sequential_batches(len(experiment.val_set), trainer.batch_size)
        )
        self.update = TrainingStep(
            experiment.model,
            experiment.loss,
            experiment.optimizer,
            experiment.precision,
            grad_clip_norm=trainer.grad_clip_norm,
        )

    def run_to_end(self) -> FitResult:
        self.started = time.perf_counter()
        if self.checkpoint is not None:
            with fitting(self.checkpoint):
                self._resume(self.checkpoint)
        self.seconds_before = self.progress.total_seconds
        self._plan()
        self.batches.start_at(self.progress.epoch, self.progress.position)
        batches = iter(self.train_loader)

        with self.interruption.caught():
            try:
                if self.progress.validation_due:  # it was interrupted
                    self._validate_and_save()
                while not self._is_done(self.progress.seconds):
                    self._epoch(batches)
                # as many steps as a smaller budget than before, or an older version, left unvalidated
                if self.progress.validated_step != self.progress.step:
                    self._validate_and_save()
                # a run that was resumed at its end, in another directory, has saved nothing yet
                if not self.run.last_checkpoint.exists():
                    self._save_last()
            except Interrupted:
                self._save_last()
                log.warning(
                    "Interrupted at step %d. Go on with: %s",
                    self.progress.step,
                    as_override("trainer.resume", self.run.path),
                )
                raise
            except _Stopped:
                self._save_last()
                raise

        if self.progress.broken:
            broken = self.progress.broken
            text = "Other images stood in for %d that cannot be read (%s)."
            log.warning(text, len(broken), by_reason(broken.values()))
        summary = self._summary()
        self.run.write_json("summary.json", summary)
        best = load_checkpoint(self.run.best_checkpoint)
        load_model(self.experiment.model, best, self.experiment.config)
        return FitResult(summary, self._encode_validation())

    def _plan(self) -> None:
        """Find out how many updates and epochs there will be in all, from where the run stands now."""
        progress, budget = self.progress, self.trainer.budget
        steps_per_epoch = self.batches.updates_left()
        in_this_epoch = self.batches.updates_left(progress.position)
        epochs_after = budget.epochs - progress.epoch - 1
        left = in_this_epoch + epochs_after * steps_per_epoch if epochs_after >= 0 else 0
        self.total_steps = budget.total_steps(
            steps_of_epochs=progress.step + left, passes_at=self._passes_at
        )
        if self.total_steps == 0:
            passes = budget.forward_passes
            raise SettingError("trainer.budget.forward_passes", passes, "is less than one update takes")

        if self.total_steps is not None:
            beyond = max(0, self.total_steps - progress.step - in_this_epoch)
            begun = progress.position > 0 or self.total_steps > progress.step
            self.num_epochs = progress.epoch + int(begun) + math.ceil(beyond / steps_per_epoch)

    def _epoch(self, batches: Iterator[Batch]) -> None:
        """Train one epoch, or what is left of it; validate where due, and save."""
        self._train_epoch(batches)
        progress = self.progress
        if self.batches.updates_left(progress.position) == 0:
            progress.epoch, progress.position = progress.epoch + 1, 0
        at_end = self._is_done(progress.seconds)
        is_due = progress.epoch % self.trainer.validate_every_epochs == 0 and progress.position == 0
        progress.validation_due = at_end or is_due
        if progress.validation_due:
            self._validate_and_save()
        else:
            self._save_last()
            self._keep_epoch()

    def _validate_and_save(self) -> None:
        improved = self._validate()
        self._save_last()
        if improved:
            copy_checkpoint(self.run.last_checkpoint, self.run.best_checkpoint)
        self._keep_epoch()

    def _keep_epoch(self) -> None:
        """Give the checkpoint of an epoch that is to be kept a name of its own."""
        progress, last = self.progress, self.run.last_checkpoint
        at_end_of_epoch = progress.position == 0 and progress.epoch > 0
        if at_end_of_epoch and progress.epoch % self.trainer.checkpoint_every_epochs == 0:
            copy_checkpoint(last, last.with_name(f"epoch_{progress.epoch:04d}.pt"))

    def _train_epoch(self, batches: Iterator[Batch]) -> None:
        progress, trainer = self.progress, self.trainer
        self.experiment.model.train()
        unread: list[_Unread] = []
        started, before = time.perf_counter(), progress.seconds
        images_per_update = self.batches.images_per_update

        with self._bar(f"epoch {self._of_all(progress.epoch + 1)}") as bar:
            try:
                while self.batches.updates_left(progress.position) > 0:
                    micro_batches = list(islice(batches, trainer.accumulate_steps))
                    self.interruption.check()
                    self._count_broken(micro_batches)
                    factor = self.experiment.schedule.factor(*self._done_of_total())
                    set_learning_rate(self.experiment.optimizer, factor)
                    tokenizer = self.experiment.tokenizer
                    result = self.update([inputs_of(batch, tokenizer) for batch in micro_batches])

                    progress.forward_passes = self._passes_at(progress.step + 1)
                    progress.step += 1
                    progress.position += images_per_update
                    progress.images += images_per_update
                    progress.seconds = before + time.perf_counter() - started
                    record = {
                        "step": progress.step,
                        "train/lr": self._lr(),
                        **self._cost(),
                        "train/false_negatives": sum(map(_false_negatives, micro_batches)),
                    }
                    if isinstance(self.experiment.optimizer, SAM):
                        record["train/rho"] = self.experiment.optimizer.last_rho
                    unread.append(_Unread(record, result, [batch.places for batch in micro_batches]))
                    if len(unread) == READ_EVERY_STEPS:
                        self._read_results(unread, bar)
                    bar.update(images_per_update)
                    if self._is_done(progress.seconds):
                        break
            except Interrupted:
                self._read_results(unread, bar)
                raise
            self._read_results(unread, bar)
        progress.seconds = before + time.perf_counter() - started

    def _passes_at(self, step: int) -> int:
        """Batches that will have gone through the model after so many updates."""
        progress = self.progress
        return (progress.forward_passes or 0) + self._passes(progress.step, step)

    def _passes(self, first: int, last: int) -> int:
        """Batches that go through the model from one number of updates to another."""
        optimizer = self.experiment.optimizer
        num_passes = optimizer.num_passes if isinstance(optimizer, SAM) else int
        return (num_passes(last) - num_passes(first)) * self.trainer.accumulate_steps

    def _is_done(self, seconds: float) -> bool:
        if self.total_steps is None:
            return seconds >= (self.trainer.budget.seconds or 0)
        return self.progress.step >= self.total_steps

    def _done_of_total(self) -> tuple[int, int]:
        """How far the run is, in updates; in milliseconds where the clock ends it."""
        if self.total_steps is None:
            return round(1000 * self.progress.seconds), round(1000 * (self.trainer.budget.seconds or 0))
        return self.progress.step, self.total_steps

    def _cost(self) -> dict[str, float]:
        """What the run has cost so far."""
        progress = self.progress
        return {"train/seconds": progress.seconds, "train/forward_passes": progress.forward_passes or 0}

    def _of_all(self, epoch: int) -> str:
        return str(epoch) if self.total_steps is None else f"{epoch}/{self.num_epochs}"

    def _count_broken(self, batches: Sequence[Batch]) -> None:
        """Tell of each broken image once; stop when there are too many."""
        broken = self.progress.broken
        for problem in (problem for batch in batches for problem in batch.problems):
            if str(problem) not in broken:
                log.warning("Another image stands in: %s", problem)
                broken[str(problem)] = problem.reason
        train_set = self.experiment.train_set
        most = (train_set.max_broken_fraction or 0) * len(train_set.split)
        if len(broken) > most:
            raise _Stopped(
                f"Stopped at step {self.progress.step}: {len(broken):,} of the "
                f"{counted(len(train_set.split), 'training image')} cannot be read "
                f"({by_reason(broken.values())}), more than "
                f"data.max_broken_fraction={train_set.max_broken_fraction:g} of them. Mend the files above."
            )

    def _bar(self, text: str) -> tqdm:
        """A bar over the images of the epoch; nothing where the output is no terminal."""
        return tqdm(
            total=self.batches.num_images,
            initial=self.progress.position,
            desc=text,
            unit="img",
            leave=False,
            disable=None,
        )

    def _read_results(self, unread: list[_Unread], bar: tqdm) -> None:
        """Bring results to the host, all in one transfer, and record them."""
        if not unread:
            return
        results = [
            {"loss": r.loss, "logit_scale": r.logit_scale, "grad_norm": r.grad_norm, **r.measures}
            for r in (step.result for step in unread)
        ]
        flat = torch.stack([value.float() for result in results for value in result.values()])
        values = iter(flat.tolist())
        too_many_skips = False
        for (record, _, places), result in zip(unread, results, strict=True):
            record |= {f"train/{name}": next(values) for name in result}
            was_applied = math.isfinite(record["train/grad_norm"])
            if not was_applied:
                self._tell_skipped(record["step"], places)
            too_many_skips |= self._count_skipped(was_applied)
            record["train/skipped_steps"] = self.progress.skipped_steps
            every = self.logger.every_steps
            if every is not None and record["step"] % every == 0:
                self.logger.log(record)
        loss, scale = record["train/loss"], record["train/logit_scale"]
        bar.set_postfix(loss=f"{loss:.3f}", logit_scale=f"{scale:.1f}")
        unread.clear()
        if too_many_skips:
            self._save_last()
            raise Diverged(
                f"Stopped at step {self.progress.step}: more updates in a row than "
                f"trainer.max_skipped_steps={self.trainer.max_skipped_steps} were skipped, because a "
                "gradient was not finite. The weights before them are in "
                f"{self.run.last_checkpoint}. {REMEDY}"
            )

    def _tell_skipped(self, step: int, places: Sequence[Tensor]) -> None:
        """Record which images were in the batches of a step that was skipped."""
        ids = self.experiment.train_set.split.ids
        images = [ids[place] for each in places for place in each.tolist()]
        self.run.append_skipped(step, images)

        if self.progress.skipped_steps < MAX_SKIPS_TOLD:
            shown = ", ".join(images[:MAX_IMAGES_TOLD])
            num_more = len(images) - MAX_IMAGES_TOLD
            more = f" and {num_more} more" if num_more > 0 else ""
            log.warning(
                "Step %d was skipped, its loss or gradient not finite. Its images, all in %s: %s%s",
                step,
                self.run.skipped_batches.name,
                shown,
                more,
            )

    def _count_skipped(self, was_applied: bool) -> bool:
        """Returns whether too many updates in a row were skipped."""
        progress = self.progress
        progress.skipped_in_a_row = 0 if was_applied else progress.skipped_in_a_row + 1
        progress.skipped_steps += not was_applied
        return progress.skipped_in_a_row > self.trainer.max_skipped_steps

    def _validate(self) -> bool:
        """Measure, record and print. Returns whether these weights are the best so far."""
        experiment, progress = self.experiment, self.progress
        self._check_weights()
        features = self._encode_validation()
        metrics, found = retrieval_metrics(*features), health(features)
        loss = self._validation_loss(features)
        record: dict[str, Any] = {
            "step": progress.step,
            "epoch": progress.epoch,
            "epochs_begun": progress.epochs_begun,
            "val/loss": loss,
            "val/loss_over_chance": self._over_chance(loss),
            **{f"val/{key}": value for key, value in metrics.items()},
            **{f"health/{key}": value for key, value in found._asdict().items()},
            **{k: value for measure in experiment.measures for k, value in measure(features).items()},
            "train/images_per_second": progress.images_per_second,
            **self._cost(),
        }
        self.logger.log(record)
        log.info("%s", _epoch_line(record, self._of_all(progress.epochs_begun)))
        if progress.skipped_steps:
            skipped = counted(progress.skipped_steps, "update")
            log.warning("%s skipped: gradient not finite.", skipped)
        if not math.isfinite(loss):
            log.warning("The validation loss is not finite: these weights are no candidate for best.pt.")
        elif found.has_collapsed:
            log.warning(
                "The features have collapsed: effective rank %.1f of images, %.1f of captions. Lower the "
                "learning rate, or warm up longer.",
                found.image_rank,
                found.text_rank,
            )
        progress.validations += 1
        progress.validated_step, progress.validation_due = progress.step, False
        best = progress.best
        improved = math.isfinite(loss) and (best is None or selection_key(record) > selection_key(best))
        if improved:
            split = experiment.val_set.split
            protocol = protocol_name(split.name, len(features.images), len(features.texts))
            progress.best = {**record, "protocol": protocol}
        return improved

    def _encode_validation(self) -> Features:
        with self._bar_of_validation() as bar:

            def checked() -> Any:
                for batch in self.val_loader:
                    self.interruption.check()
                    yield batch.images
                    bar.update(len(batch.images))

            return encode(
                self.experiment.model,
                checked(),
                self.experiment.val_set.split.captions,
                self.experiment.tokenizer,
                device=self.device,
                autocast=self.experiment.precision.autocast,
                batch_size=self.trainer.batch_size,
            )

    def _bar_of_validation(self) -> tqdm:
        return tqdm(
            total=len(self.experiment.val_set),
            desc="validation",
            unit="img",
            leave=False,
            disable=None,
        )

    @torch.inference_mode()
    def _validation_loss(self, features: Features) -> float:
        """Mean loss over batches of the training size, each image with its first caption."""
        model, size = self.experiment.model, self.trainer.batch_size
        pairs = features.images, features.first_captions
        num_full = max(1, len(features.images) // size)
        model.eval()
        losses = []
        for batch in range(num_full):
            images, texts = (x[batch * size : (batch + 1) * size] for x in pairs)
            losses.append(self.experiment.loss(images, texts, model.logit_scale(images, texts)))
        return torch.stack(losses).mean().item()

    def _over_chance(self, loss: float) -> float:
        """Over the loss of equal probabilities; NaN where there is one image only."""
        size = min(self.trainer.batch_size, len(self.experiment.val_set))
        return loss / math.log(size) if size > 1 else math.nan

    def _lr(self) -> float:
        return self.experiment.optimizer.param_groups[0]["lr"]

    def _check_weights(self) -> None:
        """Stop where the weights, or running statistics, are not finite.

        Raises:
            Diverged: says which checkpoint is the last sound one.
        """
        if all_finite(self.experiment.model.state_dict().values()):
            return
        last = self.run.last_checkpoint
        sound = (
            f"The last sound checkpoint is {last}" if last.is_file() else "No checkpoint was written yet"
        )
        raise Diverged(
            f"Stopped at step {self.progress.step}: the weights are not finite any more. {sound}. {REMEDY}"
        )

    def _save_last(self) -> None:
        self._check_weights()
        experiment, progress = self.experiment, self.progress
        progress.total_seconds = self.seconds_before + time.perf_counter() - self.started
        signed = {} if experiment.signature is None else {"signature": experiment.signature}
        save_checkpoint(
            self.run.last_checkpoint,
            {
                "model": experiment.model.state_dict(),
                "optimizer": experiment.optimizer.state_dict(),
                "scaler": experiment.precision.state_dict(),
                "progress": vars(progress),
                "tokenizer": experiment.tokenizer.state(),
                "preprocessing": self.preprocessing,
                "config": experiment.config,
                "data": self.data,
                "random_state": random_state(),
                **signed,
            },
        )

    def _resume(self, path: Path) -> None:
        """Go on where a checkpoint stands.

        Raises:
            UserError: when its weights, settings or data are of another run.
        """
        checkpoint = load_checkpoint(path)
        experiment = self.experiment
        load_model(experiment.model, checkpoint, experiment.config)
        seen = checkpoint["preprocessing"]
        adopt_preprocessing(experiment.model.image_encoder, seen)
        self.preprocessing |= {"mean": seen["mean"], "std": seen["std"]}
        self._compare(checkpoint, path)
        if not experiment.tokenizer.adopt_state(checkpoint["tokenizer"]):
            raise UserError(
                f"The checkpoint {path} was trained with another tokenizer. Resume with the same data "
                "and tokenizer settings."
            )
        experiment.tokenizer.save(self.run.tokenizer)
        load_optimizer(experiment.optimizer, checkpoint["optimizer"], path)
        experiment.precision.load_state_dict(checkpoint["scaler"])

        self.progress = Progress(**checkpoint["progress"])
        if self.progress.forward_passes is None:  # a checkpoint that did not count them
            self.progress.forward_passes = self._passes(0, self.progress.step)
        set_random_state(checkpoint["random_state"])
        log.info("Resumed from %s at step %d.", path, self.progress.step)
        self._find_best(path)
        carry_on_metrics(path.parent.parent, self.run, self.progress)
        carry_on_skipped(path.parent.parent, self.run, self.progress)

    def _compare(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Hold the run's settings and data against the checkpoint's; tell of what will change."""
        data = checkpoint.get("data")
        is_same_data = None if data is None else data == self.data
        config = self.experiment.config
        changes = changed_settings(checkpoint["config"], config, is_same_data=is_same_data)
        if self.trainer.resume == "auto":
            check_same_settings(self.run, changes)
        if is_same_data is False:
            of_data = [str(change) for change in changes if change.setting.startswith("data.")]
            raise UserError(
                f"{path} was trained on other data: images or captions differ"
                f"{': ' * bool(of_data)}{', '.join(of_data)}. Resume with the same data, or start anew "
                "with trainer.resume=null."
            )
        check_changes(changes, path)

    def _find_best(self, path: Path) -> None:
        """Give the run the checkpoint that `progress.best` tells of; without it, begin to choose anew.

        The checkpoint that is resumed can be the best one itself: a run can end between the two files.
        """
        progress = self.progress
        if progress.best is None:
            return
        for candidate in (within(path.parent, "best.pt"), path):
            if candidate.is_file() and is_checkpoint_of(candidate, progress.best):
                if candidate != self.run.best_checkpoint:
                    copy_checkpoint(candidate, self.run.best_checkpoint)
                return
        log.warning(
            "The weights of step %d, the best until now (rsum %.1f), are not beside %s: from step %d "
            "on the best are chosen anew.",
            progress.best["step"],
            progress.best["val/rsum"],
            path,
            progress.step,
        )
        progress.best = None
        progress.validation_due = True

    def _summary(self) -> dict[str, Any]:
        progress, experiment = self.progress, self.experiment
        if progress.best is None:
            raise Diverged(f"No validation gave a finite loss, so there is no best checkpoint. {REMEDY}")
        return {
            "best": progress.best,
            "best_rsum": progress.best["val/rsum"],
            "steps": progress.step,
            "epochs": progress.epoch,
            "validations": progress.validations,
            "skipped_steps": progress.skipped_steps,
            "broken_images": dict(Counter(progress.broken.values())),
            "seconds": self.seconds_before + time.perf_counter() - self.started,
            "images_per_second": progress.images_per_second,
            "peak_gpu_gb": (
                torch.cuda.max_memory_allocated(self.device) / 1e9 if self.device.type == "cuda" else None
            ),
            "parameters": sum(p.numel() for p in experiment.model.parameters()),
            "train_images": len(experiment.train_set),
        }


def find_device(name: str) -> torch.device:
    """The device a setting names; "auto" is CUDA if there is one, else the CPU.

    Raises:
        SettingError: when torch knows no such device or finds none here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingError("device", name, DEVICES) from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise SettingError("device", name, DEVICES)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SettingError("device", name, "torch finds no MPS device here; use auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise SettingError(
            "device", name, f"torch finds {counted(found, 'CUDA device')} here; use auto or cpu"
        )
    return device


def selection_key(record: dict[str, Any]) -> tuple[float, float]:
    """What a checkpoint is kept for. Equal captions, as of classes, bound the recalls: the loss decides."""
    return record["val/rsum"], -record["val/loss"]


def _false_negatives(batch: Batch) -> int:
    """Right pairs that a loss without several positives takes for wrong ones."""
    return int(batch.positives().sum()) - len(batch.captions)


def _epoch_line(record: dict[str, Any], epoch: str) -> str:
    return (
        f"epoch {epoch}  step {record['step']}  "
        f"val loss {record['val/loss']:.3f}  "
        f"R@1/5/10 {recall_line(record, prefix='val/')}  {record['train/images_per_second']:.0f} img/s"
    )
