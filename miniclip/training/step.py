"""One optimizer step from the batches that belong to it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from miniclip.data.batch import Batch
from miniclip.distributed import World
from miniclip.errors import SettingError
from miniclip.losses import Loss
from miniclip.models import CLIP
from miniclip.optim import MuonAdamW, PassOptimizer
from miniclip.optim.norms import spoil_unless
from miniclip.training.cuda_graphs import GraphedAccumulation
from miniclip.training.forward_backward import ForwardBackward, PassResult
from miniclip.training.gradient_cache import GradientCache
from miniclip.training.guards import BufferGuard, all_finite
from miniclip.training.phases import phase
from miniclip.training.precision import Precision

BETWEEN_PASSES = ("sharpness", "gradient_cosine")
"""Metrics of an optimizer that set its two passes beside each other."""


class StepResult(NamedTuple):
    """Results of one step, as tensors () on the device: reading them would wait for it.

    Attributes:
        loss: of the first pass, the mean over the batches.
        logit_scale: of the first pass, the mean over the batches.
        grad_norm: before clipping; not finite when the step was skipped.
        metrics: what the optimizer tells besides; see `PassOptimizer`.
        host_metrics: the same, numbers that lie on the host.
        num_passes: how often each batch went through the model.
    """

    loss: Tensor
    logit_scale: Tensor
    grad_norm: Tensor
    metrics: Mapping[str, Tensor]
    host_metrics: Mapping[str, float]
    num_passes: int


class TrainingStep:
    """Forward, backward and optimizer step, in as many passes as the optimizer needs.

    Gradients of several batches add up to the mean of their losses before the step; SAM perturbs once,
    along their sum. Each batch has its own negatives. A step whose gradient, or whose running statistics,
    are not finite is skipped: weights, moments and buffers stay as they are.

    Args:
        model: a `CLIP`.
        loss: see `Loss`, which says how it is called, and against the rows of which processes.
        optimizer: runs the passes.
        precision: owner of autocast and scaler.
        grad_clip_norm: see `Precision.step`.
        micro_batch_size: see `GradientCache`; None takes every batch at once.
        compiles: see `Accumulation`.
        cuda_graphs: launch forward and backward of a batch as one; see `GraphedAccumulation`.
        world: the processes that take the step together; None is this one alone.
    """

    def __init__(
        self,
        model: CLIP,
        loss: Loss,
        optimizer: PassOptimizer,
        precision: Precision,
        *,
        grad_clip_norm: float | None,
        micro_batch_size: int | None = None,
        compiles: bool = False,
        cuda_graphs: bool = False,
        world: World | None = None,
    ):
        self.model = model
        self.optimizer = optimizer
        self.precision = precision
        self.grad_clip_norm = grad_clip_norm
        self.world = world or World()
        reuses = optimizer.reuses_feature_gradient
        self.forward_backward: ForwardBackward
        if cuda_graphs:
            self.forward_backward = GraphedAccumulation(
                model, loss, precision, reuses_feature_gradient=reuses, compiles=compiles
            )
        else:
            self.forward_backward = GradientCache(
                model,
                loss,
                precision,
                micro_batch_size=micro_batch_size,
                world=self.world,
                reuses_feature_gradient=reuses,
                compiles=compiles,
            )
        self.buffers = BufferGuard(model)
        if isinstance(optimizer.base_optimizer, MuonAdamW):
            optimizer.base_optimizer.world = self.world
        self._check_reuse()

    def __call__(self, batches: Sequence[Batch]) -> StepResult:
        passes: list[PassResult] = []

        def run_pass(pass_number: int) -> Tensor:
            first_pass = passes[0] if pass_number > 0 else None
            alone = self.optimizer.ascends_alone
            passes.append(self.forward_backward(batches, first_pass, alone=alone))

            # statistics can overflow where the gradient does not; told before an optimizer keeps any of it
            is_finite = self.buffers.are_finite()
            if not alone:
                self.world.average_(self._gradients())
                is_finite = self.world.all(is_finite)
            spoil_unless(is_finite, self._gradients())
            return passes[-1].loss if alone else self.world.mean(passes[-1].loss)

        self.buffers.save()
        with phase("between passes"):
            loss = self.optimizer.backward(run_pass, loss_scale=self.precision.loss_scale)
        self._agree()
        with phase("optimizer"):
            grad_norm = self.precision.step(self.optimizer, max_norm=self.grad_clip_norm)
        self.buffers.restore_unless(grad_norm.isfinite())
        return StepResult(
            loss,
            passes[0].logit_scale,
            grad_norm,
            self._comparable_metrics(),
            self.optimizer.host_metrics,
            len(passes),
        )

    def _comparable_metrics(self) -> Mapping[str, Tensor]:
        """The optimizer's metrics, without those between a process's own rows and the rows of all."""
        if self.world.is_alone or not self.optimizer.perturbs_alone:
            return self.optimizer.metrics
        return {name: value for name, value in self.optimizer.metrics.items() if name not in BETWEEN_PASSES}

    def _check_reuse(self) -> None:
        """Refuse a second pass of all processes whose temperature is that of each one's first."""
        reuses_variance = self.model.temperature.reuses_variance
        if self.optimizer.perturbs_alone and reuses_variance and not self.world.is_alone:
            allowed = "does not go with optimizer.sync_perturbation=false: take recompute"
            raise SettingError("temperature.sam", "reuse", allowed)

    def _agree(self) -> None:
        """Have all processes skip a step that one of them skips, and hold the same running statistics."""
        if self.world.is_alone:
            return
        # a perturbation of one process alone may have overflowed after the gradients were averaged
        gradients = [gradient for gradient in self._gradients() if gradient is not None]
        spoil_unless(self.world.all(all_finite(gradients)), gradients)
        self.world.average_(buffer for buffer in self.model.buffers() if buffer.is_floating_point())

    def _gradients(self) -> list[Tensor | None]:
        """Gradients of all trained parameters, None where there is none."""
        return [p.grad for group in self.optimizer.param_groups for p in group["params"]]
