"""Forward and backward over the batches of a step: one pass of the optimizer."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from miniclip.data.batch import Batch
from miniclip.distributed import World
from miniclip.models import CLIP, CLIPOutput
from miniclip.training.precision import Precision


class FeatureGradient(NamedTuple):
    """How a batch's loss changes with the features of both towers, as scaled as all gradients are.

    Attributes:
        of_images: (B, embed_dim).
        of_texts: (B, embed_dim).
        offset: (), the loss less the product of gradient and features, unscaled.
    """

    of_images: Tensor
    of_texts: Tensor
    offset: Tensor


class PassResult(NamedTuple):
    """Result of one pass; nothing in it carries a gradient, or was waited for.

    Attributes:
        loss: (), the mean over the batches.
        logit_scale: (), the mean over the batches.
        similarities: for each batch the cosines (B, B) that the temperature read.
        feature_gradients: for each batch, where later passes reuse them.
    """

    loss: Tensor
    logit_scale: Tensor
    similarities: list[Tensor]
    feature_gradients: list[FeatureGradient]


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
        reuses_feature_gradient: passes after the first carry that one's gradient at the features back, and
            compute no loss; what they return for it is the first one's, linear in the features.
    """

    def __init__(
        self,
        model: CLIP,
        loss: Callable[..., Tensor],
        precision: Precision,
        *,
        world: World | None = None,
        reuses_feature_gradient: bool = False,
    ):
        self.model = model
        self.loss = loss
        self.precision = precision
        self.world = world or World()
        self.reuses_feature_gradient = reuses_feature_gradient

    def __call__(self, batches: Sequence[Batch], first_pass: PassResult | None) -> PassResult:
        if first_pass is not None and self.reuses_feature_gradient:
            return self._with_known_gradients(batches, first_pass)

        losses: list[Tensor] = []
        scales: list[Tensor] = []
        similarities: list[Tensor] = []
        feature_gradients: list[FeatureGradient] = []

        for number, batch in enumerate(batches):
            known = self._known_similarity(first_pass, number)
            output = self._forward(batch, known)
            if self.reuses_feature_gradient:
                loss, feature_gradient = self._in_two_parts(output, batch, len(batches))
                feature_gradients.append(feature_gradient)
            else:
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
            feature_gradients=feature_gradients,
        )

    def _with_known_gradients(self, batches: Sequence[Batch], first_pass: PassResult) -> PassResult:
        """Carry the first pass's gradients at the features back, through the weights as they are now."""
        losses: list[Tensor] = []
        for batch, gradient in zip(batches, first_pass.feature_gradients, strict=True):
            with self.precision.autocast():
                image_features = self.model.encode_image(batch.images)
                text_features = self.model.encode_text(batch.token_ids, batch.attention_mask)

            _carry_back(gradient, image_features, text_features)
            losses.append(gradient.offset + self._product(gradient, image_features, text_features))

        return first_pass._replace(loss=torch.stack(losses).sum())

    def _in_two_parts(
        self, output: CLIPOutput, batch: Batch, num_batches: int
    ) -> tuple[Tensor, FeatureGradient]:
        """Backward to the features, and from there; the loss () over the number of batches."""
        image_features = output.image_features.detach().requires_grad_()
        text_features = output.text_features.detach().requires_grad_()
        cut = output._replace(image_features=image_features, text_features=text_features)
        loss = self._loss_of(cut, batch) / num_batches
        self.precision.backward(loss)

        assert image_features.grad is not None and text_features.grad is not None
        gradient = FeatureGradient(image_features.grad, text_features.grad, offset=loss.detach())
        _carry_back(gradient, output.image_features, output.text_features)

        product = self._product(gradient, image_features, text_features)
        return loss, gradient._replace(offset=gradient.offset - product)

    def _product(self, gradient: FeatureGradient, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Sum over both towers of gradient times features, unscaled, ()."""
        of_images = (gradient.of_images * image_features.detach()).sum()
        of_texts = (gradient.of_texts * text_features.detach()).sum()
        return (of_images + of_texts) / self.precision.loss_scale

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


def _carry_back(gradient: FeatureGradient, image_features: Tensor, text_features: Tensor) -> None:
    """Add the weights' gradients to `.grad`; a tower that is frozen has no graph, and is left out."""
    features = (image_features, text_features)
    towers = [pair for pair in zip(features, gradient[:2], strict=True) if pair[0].requires_grad]
    torch.autograd.backward([features for features, _ in towers], [grad for _, grad in towers])
