"""Validation: a split is encoded, measured and recorded, and the best weights are chosen."""

import logging
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from miniclip.data.dataset import ImageTextDataset
from miniclip.data.loader import Loader
from miniclip.data.sampler import sequential_batches
from miniclip.errors import counted
from miniclip.metrics import Features, encode, health, protocol_name, recall_line, retrieval_metrics
from miniclip.metrics.health import Health
from miniclip.runs import JsonlLogger
from miniclip.runs.collapse import has_collapsed
from miniclip.training.interruption import Interruption
from miniclip.training.progress import Progress, image_bar
from miniclip.training.setup import TrainingSetup

log = logging.getLogger(__name__)

EARLY_STEPS = 100
"""Before so many steps features that do not spread are those of an untrained network."""

UNTRAINED = (
    "The features do not spread, like those of an untrained network: effective rank %.1f of images, "
    "%.1f of captions. These weights are the best only until those of others do."
)

UNTOUCHED = (
    "Every step so far was skipped, %d in all: gradient not finite. These weights, which no step has "
    "trained, are no candidate for best.pt."
)

COLLAPSED = (
    "The features have collapsed: effective rank %.1f of images, %.1f of captions. These weights are no "
    "candidate for best.pt. Lower the learning rate, or warm up longer."
)


class SplitEncoder:
    """Encodes all images and captions of a data set, in order, with the model as it is.

    Args:
        setup: model, tokenizer and precision.
        dataset: what is encoded.
        device: where the model lies.
        batch_size: images, and captions, encoded at once; and those of a batch of the validation loss.
        micro_batch_size: fewer that are encoded at once, where training takes so few; None for as many.
        num_workers: processes that read images.
        interruption: is asked between two batches.
    """

    def __init__(
        self,
        setup: TrainingSetup,
        dataset: ImageTextDataset,
        *,
        device: torch.device,
        batch_size: int,
        num_workers: int,
        micro_batch_size: int | None = None,
        interruption: Interruption | None = None,
    ):
        self.setup = setup
        self.dataset = dataset
        self.device = device
        self.batch_size = batch_size
        self.num_at_once = min(batch_size, micro_batch_size or batch_size)
        self.interruption = interruption or Interruption()
        self.loader = Loader(
            dataset,
            sequential_batches(len(dataset), self.num_at_once),
            device=device,
            num_workers=num_workers,
        )

    def __call__(self, title: str) -> Features:
        """Encode, under a bar with a title.

        Raises:
            Interrupted: when a signal has come.
        """
        return encode(
            self.setup.model,
            self._images(title),
            self.dataset.split.captions,
            self.setup.tokenizer,
            device=self.device,
            autocast=self.setup.precision.autocast,
            batch_size=self.num_at_once,
        )

    def close(self) -> None:
        """End the processes that read images."""
        self.loader.close()

    def _images(self, title: str) -> Iterator[Tensor]:
        """Batches of images, each (B, 3, H, W)."""
        with image_bar(title, num_images=len(self.dataset)) as bar:
            for batch in self.loader:
                self.interruption.check()
                yield batch.images
                bar.update(len(batch.images))


class Validation:
    """Measures the weights on the validation split and remembers the best.

    Args:
        setup: model, loss and data.
        encoder: encodes the validation split.
        logger: takes the records.
        progress: of the run; it keeps the best record.
    """

    def __init__(
        self,
        setup: TrainingSetup,
        encoder: SplitEncoder,
        logger: JsonlLogger,
        progress: Progress,
    ):
        self.setup = setup
        self.encoder = encoder
        self.logger = logger
        self.progress = progress

    def __call__(self, *, epoch: str) -> bool:
        """Measure, record and print. Returns whether these weights are the best so far.

        Args:
            epoch: how the line that is printed calls the epoch, "3/5".
        """
        features = self.encode()
        loss, found = self._loss(features), health(features)
        record = self._record(features, loss, found)
        self.logger.log(record)
        log.info("%s", _epoch_line(record, epoch))
        self._warn(loss, found)

        progress = self.progress
        progress.validations += 1
        progress.validated_step, progress.validation_due = progress.step, False
        return self._choose(record, features)

    def encode(self) -> Features:
        """The validation split as the weights see it."""
        return self.encoder("validation")

    def _record(self, features: Features, loss: float, found: Health) -> dict[str, Any]:
        further: dict[str, float] = {}
        for measure in self.setup.measures:
            further |= measure(features)
        return {
            "step": self.progress.step,
            "epoch": self.progress.epoch,
            "epochs_begun": self.progress.epochs_begun,
            "val/loss": loss,
            "val/loss_over_chance": self._over_chance(loss),
            **{f"val/{name}": value for name, value in retrieval_metrics(*features).items()},
            **{f"health/{name}": value for name, value in found._asdict().items()},
            **further,
            "train/images_per_second": self.progress.images_per_second,
            **self.progress.cost,
        }

    def _warn(self, loss: float, found: Health) -> None:
        """Log what is wrong with the weights, or was with the steps that led to them."""
        if self.progress.is_untrained:
            log.warning(UNTOUCHED, self.progress.step)
            return

        if self.progress.skipped_steps:
            skipped = counted(self.progress.skipped_steps, "step")
            log.warning("%s skipped: gradient not finite.", skipped)
        if not math.isfinite(loss):
            log.warning("The validation loss is not finite: these weights are no candidate for best.pt.")
        elif found.has_collapsed:
            text = UNTRAINED if self.progress.step < EARLY_STEPS else COLLAPSED
            log.warning(text, found.image_rank, found.text_rank)

    def _choose(self, record: dict[str, Any], features: Features) -> bool:
        """Keep a record that is the best so far. Returns whether it is."""
        best = self.progress.best
        if self.progress.is_untrained or not is_candidate(record):
            return False
        if best is not None and selection_key(record) <= selection_key(best):
            return False

        name = self.setup.val_set.split.name
        protocol = protocol_name(name, len(features.images), len(features.texts))
        self.progress.best = {**record, "protocol": protocol}
        return True

    @torch.inference_mode()
    def _loss(self, features: Features) -> float:
        """Mean loss over batches of the training size, each image with its first caption."""
        model, size = self.setup.model, self.encoder.batch_size
        captions = features.first_captions  # (N, D)
        num_batches = max(1, len(features.images) // size)  # a last one of another size is left out

        model.eval()
        losses = []
        for number in range(num_batches):
            rows = slice(number * size, (number + 1) * size)
            image_features, text_features = features.images[rows], captions[rows]
            output = model.from_features(image_features, text_features)
            losses.append(self.setup.loss(**output.loss_inputs()))
        return torch.stack(losses).mean().item()

    def _over_chance(self, loss: float) -> float:
        """A loss over `Loss.chance`; NaN where there is one image only."""
        size = min(self.encoder.batch_size, len(self.setup.val_set))
        return loss / self.setup.loss.chance(size) if size > 1 else math.nan


def is_candidate(record: dict[str, Any]) -> bool:
    """Whether the weights of a validation record can be the best.

    Those whose loss is not finite cannot, nor those whose features have collapsed. In the first steps
    features look so, too, since an untrained network gives nearly the same to everything.
    """
    loss = record["val/loss"]  # None where it was not finite, in a record that was read
    is_finite = loss is not None and math.isfinite(loss)
    return is_finite and (record["step"] < EARLY_STEPS or not has_collapsed(record))


def selection_key(record: dict[str, Any]) -> tuple[bool, float, float]:
    """What the best candidate is chosen by: rsum, then the loss, for equal captions bound the recalls.

    Weights whose features do not spread yet come behind all others.
    """
    return not has_collapsed(record), record["val/rsum"], -record["val/loss"]


def _epoch_line(record: dict[str, Any], epoch: str) -> str:
    """What a validation is told as: where the run stands, loss, recalls and speed."""
    return (
        f"epoch {epoch}  step {record['step']}  "
        f"val loss {record['val/loss']:.3f}  "
        f"R@1/5/10 {recall_line(record, prefix='val/')}  "
        f"{record['train/images_per_second']:.0f} img/s"
    )
