"""Records of training steps: read from the device many at a time, counted, logged and shown."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from miniclip.data.dataset import ImageTextDataset
from miniclip.runs import JsonlLogger, RunDirectory
from miniclip.training.guards import REMEDY, TooManyBroken, TooManySkipped
from miniclip.training.interruption import Interrupted
from miniclip.training.progress import Progress, image_bar
from miniclip.training.step import StepResult

log = logging.getLogger(__name__)

READ_EVERY_STEPS = 10
"""How often results are read from the device; each reading waits for it."""

MAX_SKIPS_LOGGED = 5
MAX_IMAGES_LOGGED = 8
"""How many skipped steps of a run the log names, and how many images of each."""


class _Unread(NamedTuple):
    """A step whose results are still on the device.

    Attributes:
        record: what is known of it on the host.
        result: what is not.
        image_ids: of each batch the indices of its images in their split, (B,) int64.
    """

    record: dict[str, Any]
    result: StepResult
    image_ids: Sequence[Tensor]


class Recorder:
    """Keeps the results of steps on the device until several are read in one transfer.

    Args:
        logger: takes the records.
        progress: of the run; its skipped steps are counted here.
        run: keeps which images were in the batches of skipped steps.
        train_set: names the images.
        max_skipped_steps: how many steps in a row may be skipped.
    """

    def __init__(
        self,
        logger: JsonlLogger,
        progress: Progress,
        run: RunDirectory,
        *,
        train_set: ImageTextDataset,
        max_skipped_steps: int,
    ):
        self.logger = logger
        self.progress = progress
        self.run = run
        self.train_set = train_set
        self.max_skipped_steps = max_skipped_steps
        self._unread: list[_Unread] = []

    @contextmanager
    def epoch(self, title: str, *, num_images: int) -> Iterator[tqdm]:
        """Show an epoch as a bar; at its end, or where it is interrupted, read what is unread."""
        with image_bar(f"epoch {title}", num_images=num_images, done=self.progress.position) as bar:
            self._bar = bar
            try:
                yield bar
            except (Interrupted, TooManyBroken):  # a checkpoint of this step follows
                self.read()
                raise
            self.read()

    def add(
        self,
        result: StepResult,
        *,
        lr: float,
        image_ids: Sequence[Tensor],
        num_false_negatives: int | Tensor,
    ) -> None:
        """Take in the step that `progress` stands at.

        Args:
            lr: learning rate of the first parameter group.
            image_ids: of each batch the indices of its images in their split, (B,) int64.
            num_false_negatives: right pairs that a loss of one positive took for wrong; where it is on the
                device, (), it is read with the others.

        Raises:
            TooManySkipped: see `read`.
        """
        record = {
            "step": self.progress.step,
            "train/lr": lr,
            **self.progress.cost,
            "train/false_negatives": num_false_negatives,
            **{f"train/{name}": value for name, value in result.host_metrics.items()},
        }
        self._unread.append(_Unread(record, result, image_ids))
        if len(self._unread) == READ_EVERY_STEPS:
            self.read()

    def read(self) -> None:
        """Bring the results of all unread steps to the host and log them.

        Raises:
            TooManySkipped: when more steps in a row than allowed were skipped.
        """
        steps, self._unread = self._unread, []
        if not steps:
            return

        too_many_skipped = False
        for step, values in zip(steps, _on_host([step.result for step in steps]), strict=True):
            record = step.record | values
            record["train/false_negatives"] = int(record["train/false_negatives"])
            was_applied = math.isfinite(record["train/grad_norm"])
            if not was_applied:
                self._keep_images_of_skipped(step)
            too_many_skipped |= self._count_skipped(was_applied)
            record["train/skipped_steps"] = self.progress.skipped_steps
            self._log(record)

        self._bar.set_postfix(
            loss=f"{record['train/loss']:.3f}", logit_scale=f"{record['train/logit_scale']:.1f}"
        )
        if too_many_skipped:
            raise TooManySkipped(
                f"Stopped at step {self.progress.step}: more steps in a row than "
                f"trainer.max_skipped_steps={self.max_skipped_steps} were skipped, because a gradient was "
                f"not finite. The weights before them are in {self.run.last_checkpoint}. {REMEDY}"
            )

    def _log(self, record: dict[str, Any]) -> None:
        interval = self.logger.every_steps
        if interval is not None and record["step"] % interval == 0:
            self.logger.log(record)

    def _keep_images_of_skipped(self, step: _Unread) -> None:
        """Write down which images were in the batches of a skipped step, and log some of them."""
        images: list[str] = []
        for image_ids in step.image_ids:
            images += self.train_set.names(image_ids)
        self.run.append_skipped(step.record["step"], images)

        if self.progress.skipped_steps < MAX_SKIPS_LOGGED:
            num_more = len(images) - MAX_IMAGES_LOGGED
            log.warning(
                "Step %d was skipped, its loss or gradient not finite. Its images, all in %s: %s%s",
                step.record["step"],
                self.run.skipped_batches.name,
                ", ".join(images[:MAX_IMAGES_LOGGED]),
                f" and {num_more} more" if num_more > 0 else "",
            )

    def _count_skipped(self, was_applied: bool) -> bool:
        """Count a step. Returns whether too many in a row were skipped."""
        progress = self.progress
        progress.skipped_in_a_row = 0 if was_applied else progress.skipped_in_a_row + 1
        progress.skipped_steps += not was_applied
        return progress.skipped_in_a_row > self.max_skipped_steps


def _on_host(results: Sequence[StepResult]) -> list[dict[str, float]]:
    """The numbers of several steps, by their names in records, in one transfer."""
    tensors: list[dict[str, Tensor]] = []
    for result in results:
        main = {"loss": result.loss, "logit_scale": result.logit_scale, "grad_norm": result.grad_norm}
        tensors.append({**main, **result.metrics})

    # the host waits here, once, for all of them
    flat = torch.stack([value.float() for step in tensors for value in step.values()])
    values = iter(flat.tolist())
    return [{f"train/{name}": next(values) for name in step} for step in tensors]
