"""One update of the weights from one batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from miniclip.models import Inputs, MiniCLIP
from miniclip.models.clip import CLIPOutput
from miniclip.optim import PassOptimizer
from miniclip.training.guards import BufferGuard, spoil_unless
from miniclip.training.precision import Precision


class StepResult(NamedTuple):
    """What one update tells, as tensors () on the device: reading them would wait for it.

    Attributes:
        loss: of the first pass, the mean over the micro-batches.
        logit_scale: of the first pass, the mean over the micro-batches.
        grad_norm: before clipping; not finite when the update was skipped.
        metrics: what the optimizer tells besides; see `PassOptimizer`.
        host_metrics: the same, numbers that lie on the host.
    """

    loss: Tensor
    logit_scale: Tensor
    grad_norm: Tensor
    metrics: Mapping[str, Tensor]
    host_metrics: Mapping[str, float]


class TrainingStep:
    """Forward, backward and update, whatever the optimizer: one pass or SAM's two.

    Gradients of several micro-batches add up to the mean of their losses before the update; SAM perturbs
    once, along their sum. Each micro-batch has its own negatives. An update whose gradient, or whose
    running statistics, are not finite is skipped: weights, moments and buffers stay as they are.

    Args:
        model: a `MiniCLIP`.
        loss: `(image_features, text_features, logit_scale, positives) -> ()`.
        optimizer: runs as many passes as it needs.
        precision: owner of autocast and scaler.
        grad_clip_norm: see `Precision.step`.
    """

    def __init__(
        self,
        model: MiniCLIP,
        loss: Callable[..., Tensor],
        optimizer: PassOptimizer,
        precision: Precision,
        *,
        grad_clip_norm: float | None,
    ):
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.precision = precision
        self.grad_clip_norm = grad_clip_norm
        self.buffers = BufferGuard(model)

    def __call__(self, micro_batches: Sequence[Inputs]) -> StepResult:
        first_pass: list[CLIPOutput] = []

        def forward_and_backward(pass_number: int) -> Tensor:
            is_second = pass_number > 0
            losses = []
            for number, inputs in enumerate(micro_batches):
                known = first_pass[number].similarity if is_second and self._reuses_similarity else None
                with self.precision.autocast():
                    output: CLIPOutput = self.model(*inputs[:3], similarity=known)
                loss = self.loss(*output[:3], inputs.positives)
                loss = loss / len(micro_batches)
                self.precision.backward(loss)
                losses.append(loss.detach())
                if not is_second:
                    first_pass.append(CLIPOutput(*(part.detach() for part in output)))
            return torch.stack(losses).sum()

        self.buffers.save()
        loss = self.optimizer.backward(forward_and_backward)
        # statistics can overflow where the gradient does not
        gradients = (p.grad for group in self.optimizer.param_groups for p in group["params"])
        spoil_unless(self.buffers.are_finite(), gradients)
        grad_norm = self.precision.step(self.optimizer, max_norm=self.grad_clip_norm)
        self.buffers.restore_unless(grad_norm.isfinite())
        scale = torch.stack([output.logit_scale for output in first_pass]).mean()
        return StepResult(loss, scale, grad_norm, self.optimizer.metrics, self.optimizer.host_metrics)

    @property
    def _reuses_similarity(self) -> bool:
        return getattr(self.model.temperature, "sam", None) == "reuse"
