"""One optimizer step from the batches that belong to it."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from miniclip.data.batch import Batch
from miniclip.distributed import World
from miniclip.models import CLIP
from miniclip.optim import PassOptimizer
from miniclip.training.forward_backward import PassResult
from miniclip.training.gradient_cache import GradientCache
from miniclip.training.guards import BufferGuard, spoil_unless
from miniclip.training.precision import Precision


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
        loss: called by name with `CLIPOutput.loss_inputs` and `positives` -> ().
        optimizer: runs the passes.
        precision: owner of autocast and scaler.
        grad_clip_norm: see `Precision.step`.
        micro_batch_size: see `GradientCache`; None takes every batch at once.
        world: the processes that take the step together; None is this one alone.
    """

    def __init__(
        self,
        model: CLIP,
        loss: Callable[..., Tensor],
        optimizer: PassOptimizer,
        precision: Precision,
        *,
        grad_clip_norm: float | None,
        micro_batch_size: int | None = None,
        world: World | None = None,
    ):
        self.model = model
        self.optimizer = optimizer
        self.precision = precision
        self.grad_clip_norm = grad_clip_norm
        self.world = world or World()
        self.forward_backward = GradientCache(
            model,
            loss,
            precision,
            micro_batch_size=micro_batch_size,
            world=self.world,
            reuses_feature_gradient=optimizer.reuses_feature_gradient,
        )
        self.buffers = BufferGuard(model)

    def __call__(self, batches: Sequence[Batch]) -> StepResult:
        passes: list[PassResult] = []

        def run_pass(pass_number: int) -> Tensor:
            first_pass = passes[0] if pass_number > 0 else None
            passes.append(self.forward_backward(batches, first_pass))

            # statistics can overflow where the gradient does not; told before an optimizer keeps any of it
            is_finite = self.world.all(self.buffers.are_finite())
            spoil_unless(is_finite, self._gradients())
            return passes[-1].loss

        self.buffers.save()
        loss = self.optimizer.backward(run_pass, loss_scale=self.precision.loss_scale)
        grad_norm = self.precision.step(self.optimizer, max_norm=self.grad_clip_norm)
        self.buffers.restore_unless(grad_norm.isfinite())
        return StepResult(
            loss,
            passes[0].logit_scale,
            grad_norm,
            self.optimizer.metrics,
            self.optimizer.host_metrics,
            len(passes),
        )

    def _gradients(self) -> list[Tensor | None]:
        """Gradients of all trained parameters, None where there is none."""
        return [p.grad for group in self.optimizer.param_groups for p in group["params"]]
