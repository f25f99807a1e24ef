"""Forward and backward over the batches of a step: one pass of the optimizer."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from miniclip.data.batch import Batch
from miniclip.distributed import World
from miniclip.models import CLIP, CLIPOutput
from miniclip.training.precision import Precision


class PassResult(NamedTuple):
    """Result of one pass; nothing in it carries a gradient, or was waited for.

    Attributes:
        loss: (), the mean over the batches.
        logit_scale: (), the mean over the batches.
        similarities: for each batch the cosines (B, B) that the temperature read.
    """

    loss: Tensor
    logit_scale: Tensor
    similarities: list[Tensor]


class ForwardBackward(Protocol):
    """One pass over the batches of a step, which adds the gradient of their mean loss to `.grad`.

    Args (of a call):
        batches: each with its own negatives.
        first_pass: the result of the step's first pass; None where this is the first.
    """

    def __call__(self, batches: Sequence[Batch], first_pass: PassResult | None) -> PassResult: ...


class Accumulation:
    """Runs one batch after another, forward and backward, and adds up their gradients.

    Args:
        model: a `CLIP`.
        loss: called by name with `CLIPOutput.loss_inputs` and `positives` -> ().
        precision: owner of autocast and scaler.
        world: gathers the features that the loss compares.
    """

    def __init__(
        self,
        model: CLIP,
        loss: Callable[..., Tensor],
        precision: Precision,
        *,
        world: World | None = None,
    ):
        self.model = model
        self.loss = loss
        self.precision = precision
        self.world = world or World()

    def __call__(self, batches: Sequence[Batch], first_pass: PassResult | None) -> PassResult:
        losses: list[Tensor] = []
        scales: list[Tensor] = []
        similarities: list[Tensor] = []

        for number, batch in enumerate(batches):
            known = self._known_similarity(first_pass, number)
            output = self._forward(batch, known)
            loss = self._loss_of(output, batch) / len(batches)
            self.precision.backward(loss)

            # detached, so that the graph of one batch is gone before the next
            losses.append(loss.detach())
            scales.append(output.logit_scale.detach())
            similarities.append(output.similarity.detach())

        return PassResult(
            loss=torch.stack(losses).sum(),
            logit_scale=torch.stack(scales).mean(),
            similarities=similarities,
        )

    def _known_similarity(self, first_pass: PassResult | None, number: int) -> Tensor | None:
        """What the temperature reads in place of this pass's own cosines, if anything, (B, B)."""
        if first_pass is None or not self.model.temperature.reuses_similarity:
            return None
        return first_pass.similarities[number]

    def _forward(self, batch: Batch, similarity: Tensor | None) -> CLIPOutput:
        with self.precision.autocast():
            return self.model(
                images=batch.images,
                token_ids=batch.token_ids,
                attention_mask=batch.attention_mask,
                similarity=similarity,
            )

    def _loss_of(self, output: CLIPOutput, batch: Batch) -> Tensor:
        """The loss of one batch, (); of all processes' rows, so that no loss has to know of processes."""
        return self.loss(**output.loss_inputs(self.world.gather), positives=batch.positives)
