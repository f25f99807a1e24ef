"""Forward and backward over the batches of a step: one pass of the optimizer."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from miniclip.data.batch import Batch
from miniclip.data.transforms import as_seen
from miniclip.distributed import World
from miniclip.losses import Loss
from miniclip.models import CLIP, CLIPOutput
from miniclip.models.clip import similarity_variance
from miniclip.training.phases import phase
from miniclip.training.precision import Precision

SHAPES = 64
"""So many shapes and choices of trained weights are compiled for before torch leaves others as they are."""


class BatchFeatures(NamedTuple):
    """What both towers make of one batch, of length 1.

    Attributes:
        images: (B, embed_dim) float32.
        texts: (B, embed_dim) float32.
    """

    images: Tensor
    texts: Tensor


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


class BatchResult(NamedTuple):
    """Result of one batch of a pass; nothing in it carries a gradient, or was waited for.

    Attributes:
        loss: (), over the number of batches.
        logit_scale: ().
        variance: what the temperature read, (), or None where it reads nothing.
        gradient: at the features, where later passes reuse it.
    """

    loss: Tensor
    logit_scale: Tensor
    variance: Tensor | None
    gradient: FeatureGradient | None

    @classmethod
    def of(cls, output: CLIPOutput, loss: Tensor, gradient: FeatureGradient | None = None) -> "BatchResult":
        """That of a model's output and its loss, (), without their graph."""
        return cls(loss.detach(), output.logit_scale.detach(), output.variance, gradient)


class PassResult(NamedTuple):
    """Result of one pass; nothing in it carries a gradient, or was waited for.

    Attributes:
        loss: (), the mean over the batches.
        logit_scale: (), the mean over the batches.
        variances: for each batch what the temperature read, (), or None where it reads nothing.
        feature_gradients: for each batch, where later passes reuse them.
    """

    loss: Tensor
    logit_scale: Tensor
    variances: list[Tensor | None]
    feature_gradients: list[FeatureGradient]


class ForwardBackward(Protocol):
    """One pass over the batches of a step, which adds the gradient of their mean loss to `.grad`.

    Args (of a call):
        batches: each with its own negatives.
        first_pass: the result of the step's first pass; None where this is the first.
        alone: compare the rows of this process only, and wait for no other.
    """

    def __call__(
        self, batches: Sequence[Batch], first_pass: PassResult | None, *, alone: bool = False
    ) -> PassResult: ...


class Accumulation:
    """Runs one batch after another, forward and backward, and adds up their gradients.

    Args:
        model: a `CLIP`.
        loss: see `Loss`, which says how it is called, and against the rows of which processes.
        precision: owner of autocast and scaler.
        world: gathers the features that the loss compares.
        reuses_feature_gradient: passes after the first carry that one's gradient at the features back, and
            compute no loss; what they return for it is the first one's, linear in the features.
        compiles: compile both towers with torch.compile, once for each shape.
    """

    def __init__(
        self,
        model: CLIP,
        loss: Loss,
        precision: Precision,
        *,
        world: World | None = None,
        reuses_feature_gradient: bool = False,
        compiles: bool = False,
    ):
        self.model = model
        self.encode_image = compiled(model.encode_image) if compiles else model.encode_image
        self.encode_text = compiled(model.encode_text) if compiles else model.encode_text
        self.loss = loss
        self.precision = precision
        self.world = world or World()
        self.gathers = loss.gather == "global"
        self.reuses_feature_gradient = reuses_feature_gradient

    def __call__(
        self, batches: Sequence[Batch], first_pass: PassResult | None, *, alone: bool = False
    ) -> PassResult:
        world = World() if alone else self.world
        if first_pass is not None and self.reuses_feature_gradient:
            return self._with_known_gradients(batches, first_pass)

        results = [
            self._one_batch(batch, self._known_variance(first_pass, number), len(batches), world)
            for number, batch in enumerate(batches)
        ]
        return PassResult(
            loss=torch.stack([result.loss for result in results]).sum(),
            logit_scale=torch.stack([result.logit_scale for result in results]).mean(),
            variances=[result.variance for result in results],
            feature_gradients=[result.gradient for result in results if result.gradient is not None],
        )

    def _with_known_gradients(self, batches: Sequence[Batch], first_pass: PassResult) -> PassResult:
        """Carry the first pass's gradients at the features back, through the weights as they are now."""
        losses: list[Tensor] = []
        for batch, gradient in zip(batches, first_pass.feature_gradients, strict=True):
            losses.append(gradient.offset + self._one_batch_again(batch, gradient))

        return first_pass._replace(loss=torch.stack(losses).sum())

    def _one_batch(
        self, batch: Batch, variance: Tensor | None, num_batches: int, world: World
    ) -> BatchResult:
        """Forward and backward over one batch, whose graph is gone after it."""
        features = self._encode(batch)
        if self.reuses_feature_gradient:
            output, loss, gradient = self._up_to_features(features, batch, variance, num_batches, world)
            _carry_back(gradient, features)
            return BatchResult.of(output, loss, gradient)

        output, loss = self._compare(features, batch, variance, world)
        loss = loss / num_batches
        with phase("backward"):
            self.precision.backward(loss)
        return BatchResult.of(output, loss)

    def _one_batch_again(self, batch: Batch, gradient: FeatureGradient) -> Tensor:
        """Carry a known gradient at the features back; its product with the features, unscaled, ()."""
        features = self._encode(batch)
        _carry_back(gradient, features)
        return self._product(gradient, features)

    def _up_to_features(
        self,
        features: BatchFeatures,
        batch: Batch,
        variance: Tensor | None,
        num_batches: int,
        world: World,
    ) -> tuple[CLIPOutput, Tensor, FeatureGradient]:
        """Loss, and backward as far as the features; the loss () over the number of batches."""
        cut = BatchFeatures(*(part.detach().requires_grad_() for part in features))
        output, loss = self._compare(cut, batch, variance, world)
        loss = loss / num_batches
        self.precision.backward(loss)

        assert cut.images.grad is not None and cut.texts.grad is not None
        gradient = FeatureGradient(cut.images.grad, cut.texts.grad, offset=loss.detach())
        return output, loss, gradient._replace(offset=gradient.offset - self._product(gradient, cut))

    def _product(self, gradient: FeatureGradient, features: BatchFeatures) -> Tensor:
        """Sum over both towers of gradient times features, unscaled, ()."""
        of_images = (gradient.of_images * features.images.detach()).sum()
        of_texts = (gradient.of_texts * features.texts.detach()).sum()
        return (of_images + of_texts) / self.precision.loss_scale

    def _known_variance(self, first_pass: PassResult | None, number: int) -> Tensor | None:
        """What the temperature reads in place of this pass's own variance, if anything, ()."""
        if first_pass is None or not self.model.temperature.reuses_variance:
            return None
        return first_pass.variances[number]

    def _encode(self, batch: Batch) -> BatchFeatures:
        """Both towers' features of this process's rows."""
        with self.precision.autocast():
            with phase("image forward"):
                images = self.encode_image(as_seen(batch.images))
            with phase("text forward"):
                texts = self.encode_text(batch.token_ids, batch.attention_mask)
        return BatchFeatures(images, texts)

    def _compare(
        self, features: BatchFeatures, batch: Batch, variance: Tensor | None, world: World
    ) -> tuple[CLIPOutput, Tensor]:
        """This process's part of the loss of one batch, (), and the model's output that it read.

        The mean over the processes is the loss of them all.
        """
        with phase("loss"):
            return self._compare_rows(features, batch, variance, world)

    def _compare_rows(
        self, features: BatchFeatures, batch: Batch, variance: Tensor | None, world: World
    ) -> tuple[CLIPOutput, Tensor]:
        if self.gathers and not world.is_alone:
            return self._compare_with_others(features, batch, variance, world)
        if variance is None and self.model.temperature.reads_variance:
            variance = world.mean(similarity_variance(*features))
        with self.precision.autocast():
            output = self.model.from_features(*features, variance)
        return output, self.loss(**output.loss_inputs(), positives=batch.positives)

    def _compare_with_others(
        self, features: BatchFeatures, batch: Batch, variance: Tensor | None, world: World
    ) -> tuple[CLIPOutput, Tensor]:
        """The same against the rows of all processes."""
        images, texts = (world.gather(part) for part in features)
        positives = None if batch.positives is None else batch.positives.each(world.gather)
        with self.precision.autocast():
            output = self.model.from_features(images, texts, variance)

        inputs: dict[str, Any] = {**output.loss_inputs(), "positives": positives}
        if self.loss.takes_rows:
            inputs["rows"] = world.rows(len(images))
        return output, self.loss(**inputs)


def compiled(encode: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A tower that torch.compile makes kernels for when it meets a shape; captions have a few lengths."""
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, SHAPES)
    return torch.compile(encode, dynamic=False)


def _carry_back(gradient: FeatureGradient, features: BatchFeatures) -> None:
    """Add the weights' gradients to `.grad`; a tower that is frozen has no graph, and is left out."""
    towers = [pair for pair in zip(features, gradient[:2], strict=True) if pair[0].requires_grad]
    with phase("backward"):
        torch.autograd.backward([features for features, _ in towers], [grad for _, grad in towers])
