"""Gradient caching (Gao et al. 2021, arXiv 2101.06983): batches larger than memory, with all negatives.

A contrastive loss needs the features of the whole batch, but a backward pass through the towers needs no
more than the gradient at the features:

    f_i       the features of each micro-batch i, without a graph
    g = dL/df of the loss L of all of them, which knows nothing of the towers
    dL/dw     = sum over i of g_i df_i/dw, each micro-batch forward once more, with a graph, and back

So the graph of one micro-batch of one tower is alive at a time, at the price of a second forward pass.

The gradient is that of the batch at once, up to the order of sums, unless a module looks beyond its own
row: batch norm sees the statistics of a micro-batch, as it does where steps are made of several batches.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # what all kinds of it have in common, torch 2.14

from miniclip.data.batch import Batch
from miniclip.data.transforms import as_seen
from miniclip.distributed import World
from miniclip.errors import SettingError
from miniclip.losses import Loss
from miniclip.models import CLIP
from miniclip.optim.randomness import Randomness
from miniclip.optim.statistics import BufferCopies
from miniclip.training.forward_backward import Accumulation, BatchFeatures, BatchResult, FeatureGradient
from miniclip.training.phases import phase
from miniclip.training.precision import Precision


class GradientCache(Accumulation):
    """One pass over the batches of a step, with the activations of no more than a micro-batch in memory.

    A batch that fits into one micro-batch goes the plain way of `Accumulation`.

    Args:
        model, loss, precision, world, reuses_feature_gradient, compiles: see `Accumulation`.
        micro_batch_size: the most rows of this process that go through a tower at a time, None for any
            number. The micro-batches of a batch are as equal as can be.
    """

    def __init__(
        self,
        model: CLIP,
        loss: Loss,
        precision: Precision,
        *,
        micro_batch_size: int | None,
        world: World | None = None,
        reuses_feature_gradient: bool = False,
        compiles: bool = False,
    ):
        super().__init__(
            model,
            loss,
            precision,
            world=world,
            reuses_feature_gradient=reuses_feature_gradient,
            compiles=compiles,
        )
        self.micro_batch_size = micro_batch_size

    def _one_batch(
        self, batch: Batch, variance: Tensor | None, num_batches: int, world: World
    ) -> BatchResult:
        if self._fits(batch):
            return super()._one_batch(batch, variance, num_batches, world)

        buffers = BufferCopies(self.model)
        images, texts = self._towers(batch)
        features = BatchFeatures(images.features(), texts.features())
        output, loss, gradient = self._up_to_features(features, batch, variance, num_batches, world)

        # the second forward begins where the first did, and leaves behind what that one left
        randomness = Randomness(self.model.parameters())
        with buffers.in_use():
            images.repeat(gradient.of_images)
            texts.repeat(gradient.of_texts)
        randomness.restore()
        return BatchResult.of(output, loss, gradient if self.reuses_feature_gradient else None)

    def _one_batch_again(self, batch: Batch, gradient: FeatureGradient) -> Tensor:
        if self._fits(batch):
            return super()._one_batch_again(batch, gradient)

        images, texts = self._towers(batch)
        product = images.carry_back(gradient.of_images) + texts.carry_back(gradient.of_texts)
        return product / self.precision.loss_scale

    def _fits(self, batch: Batch) -> bool:
        """Whether a batch is no larger than a micro-batch."""
        return self.micro_batch_size is None or len(batch.images) <= self.micro_batch_size

    def _towers(self, batch: Batch) -> tuple["_InParts", "_InParts"]:
        """Both towers on this process's rows of a batch; images come first, as in the plain way."""
        model = self.model
        assert self.micro_batch_size is not None
        count = math.ceil(len(batch.images) / self.micro_batch_size)
        images = _InParts(
            lambda images: self.encode_image(as_seen(images)),
            (batch.images,),
            learning=(model.image_encoder, model.projection),
            count=count,
            precision=self.precision,
        )
        texts = _InParts(
            self.encode_text,
            (batch.token_ids, batch.attention_mask),
            learning=(model.text_encoder, model.projection),
            count=count,
            precision=self.precision,
        )
        return images, texts


class _InParts:
    """One tower on a batch, which sees a micro-batch at a time.

    Autocast casts each weight once for all micro-batches of a batch. Weights that were cast without a graph
    are not for the way with one: each has a context of its own.

    Args:
        encode: `inputs of a micro-batch (b, ...) -> features (b, embed_dim)`.
        inputs: of the batch, each (B, ...).
        learning: the modules that the features come through.
        count: how many micro-batches.
        precision: of the forward passes.
    """

    def __init__(
        self,
        encode: Callable[..., Tensor],
        inputs: Sequence[Tensor],
        *,
        learning: Sequence[nn.Module],
        count: int,
        precision: Precision,
    ):
        self.encode = encode
        self.precision = precision
        self.inputs = list(zip(*(each.tensor_split(count) for each in inputs), strict=True))
        self.parameters = [p for module in learning for p in module.parameters()]
        self._randomness: list[Randomness] = []

    @torch.no_grad()
    def features(self) -> Tensor:
        """Those of the batch, (B, embed_dim), without a graph."""
        parts: list[Tensor] = []
        with self.precision.autocast():
            for inputs in self.inputs:
                self._randomness.append(Randomness(self.parameters))
                with phase("first forward"):
                    parts.append(self.encode(*inputs))
        return torch.cat(parts)

    def repeat(self, gradient: Tensor) -> None:
        """Forward as `features` did, with the same masks, and backward; not where nothing learns.

        Args:
            gradient: at the features, (B, embed_dim).
        """
        if not any(p.requires_grad for p in self.parameters):
            return
        parts = zip(self.inputs, self._split(gradient), self._randomness, strict=True)
        with self.precision.autocast():
            for inputs, rows, before in parts:
                before.restore()
                self._forward_backward(inputs, rows)

    def carry_back(self, gradient: Tensor) -> Tensor:
        """Forward and backward with a known gradient at the features, (B, embed_dim); their product, ()."""
        parts = zip(self.inputs, self._split(gradient), strict=True)
        with self.precision.autocast():
            products = [self._forward_backward(inputs, rows) for inputs, rows in parts]
        return torch.stack(products).sum()

    def _split(self, gradient: Tensor) -> Sequence[Tensor]:
        return gradient.tensor_split(len(self.inputs))

    def _forward_backward(self, inputs: Sequence[Tensor], rows: Tensor) -> Tensor:
        """One micro-batch; the product of its features and their gradient, as scaled as that is, ()."""
        with phase("second forward"):
            features = self.encode(*inputs)
        if features.requires_grad:
            with phase("backward"), self.precision.without_autocast():
                features.backward(rows)
        return (features.detach() * rows).sum()


def check_rows_of_statistics(
    model: nn.Module, *, batch_size: int, micro_batch_size: int | None, world: World, synced: bool
) -> None:
    """Refuse batches and micro-batches that batch norm cannot take: the statistics of one row say nothing.

    Args:
        batch_size: rows of a batch, of all processes.
        world: the processes that divide it.
        synced: whether batch norm's statistics are those of all of them.

    Raises:
        SettingError: when batch norm would see a single row.
    """
    rows = batch_size // world.size
    num_parts = 1 if micro_batch_size is None else math.ceil(rows / micro_batch_size)
    smallest = rows // num_parts * (world.size if synced else 1)
    if smallest > 1 or not _learns_statistics(model):
        return

    reason = "of one image, and the image tower's batch norm needs two for its statistics: take at least"
    if num_parts == 1:
        allowed = f"gives each of {world.size} processes a batch {reason} {2 * world.size}"
        raise SettingError("trainer.batch_size", batch_size, allowed)
    allowed = f"cuts a batch of {rows} into parts {reason} 3"
    raise SettingError("trainer.micro_batch_size", micro_batch_size, allowed)


def _learns_statistics(model: nn.Module) -> bool:
    """Whether batch norms of a model take the statistics of what they see in training."""
    norms = [module for module in model.train().modules() if isinstance(module, _BatchNorm)]
    return any(norm.training for norm in norms)
