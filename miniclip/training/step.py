"""One update of the weights from one batch."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from miniclip.models.clip import CLIPOutput
from miniclip.optim import SAM
from miniclip.training.precision import Precision


class StepResult(NamedTuple):
    """What one update tells, as tensors () on the device: reading them would wait for it.

    Attributes:
        loss: at the weights before the update.
        logit_scale: of the first pass.
        grad_norm: before clipping; not finite when the update was skipped.
    """

    loss: Tensor
    logit_scale: Tensor
    grad_norm: Tensor


class TrainingStep:
    """Forward, backward and update, whatever the optimizer: one pass or SAM's two.

    Args:
        model: called with (images, token_ids, attention_mask), gives what `loss` takes.
        loss: `(image_features, text_features, logit_scale) -> ()`.
        optimizer: any torch optimizer, or one of SAM's family.
        precision: owner of autocast and scaler.
        grad_clip_norm: see `Precision.step`.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Tensor],
        optimizer: Optimizer,
        precision: Precision,
        *,
        grad_clip_norm: float | None,
    ):
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.precision = precision
        self.grad_clip_norm = grad_clip_norm

    def __call__(self, images: Tensor, token_ids: Tensor, attention_mask: Tensor) -> StepResult:
        scales = []

        def forward_and_backward() -> Tensor:
            with self.precision.autocast():
                output: CLIPOutput = self.model(images, token_ids, attention_mask)
            loss = self.loss(*output)
            self.precision.backward(loss)
            scales.append(output.logit_scale.detach())
            return loss.detach()

        if isinstance(self.optimizer, SAM):
            loss = self.optimizer.backward(forward_and_backward)
        else:
            self.optimizer.zero_grad()
            loss = forward_and_backward()
        grad_norm = self.precision.step(self.optimizer, max_norm=self.grad_clip_norm)
        return StepResult(loss, scales[0], grad_norm)
