"""Guards against bad batches: values that are not finite are taken back, broken images are counted."""

import logging
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from miniclip.data.dataset import ImageTextDataset, by_reason
from miniclip.errors import BrokenImage, UserError, counted
from miniclip.optim import foreach
from miniclip.optim.norms import is_on_host
from miniclip.training.progress import Progress

log = logging.getLogger(__name__)

REMEDY = "Lower the learning rate or rho, warm up longer, or try precision=fp32."


class Diverged(UserError):
    """Training does not go on: gradients stay, or the weights are, not finite."""


class TooManySkipped(Diverged):
    """Gradients stay not finite; the weights before them are sound and to be saved."""


class TooManyBroken(UserError):
    """More images cannot be read than the data's settings allow; the weights are sound and to be saved."""


class BrokenImages:
    """Counts the training images that cannot be read, and stops a run that has too many.

    A run that goes on from where too many of them stopped it counts anew: its files may be whole by now.

    Args:
        train_set: says how many may be broken.
        progress: keeps those that were met.
    """

    def __init__(self, train_set: ImageTextDataset, progress: Progress):
        self.train_set = train_set
        self.progress = progress
        if self._are_too_many:
            progress.broken = {}

    @property
    def _max_fraction(self) -> float:
        return self.train_set.max_broken_fraction or 0

    @property
    def _are_too_many(self) -> bool:
        return len(self.progress.broken) > self._max_fraction * self.train_set.num_images

    def count(self, problems: Iterable[BrokenImage]) -> None:
        """Log each broken image once.

        Raises:
            TooManyBroken: when there are more than `data.max_broken_fraction` of all.
        """
        broken = self.progress.broken
        for problem in problems:
            if str(problem) not in broken:
                log.warning("Another image stands in: %s", problem)
                broken[str(problem)] = problem.reason

        if self._are_too_many:
            num_images = self.train_set.num_images
            raise TooManyBroken(
                f"Stopped at step {self.progress.step}: {len(broken):,} of the "
                f"{counted(num_images, 'training image')} cannot be read ({by_reason(broken.values())}), "
                f"more than data.max_broken_fraction={self._max_fraction:g} of them. Fix the files above."
            )

    def log_sum(self) -> None:
        """Log how many images others stood in for, if any."""
        broken = self.progress.broken
        if broken:
            text = "Other images stood in for %d that cannot be read (%s)."
            log.warning(text, len(broken), by_reason(broken.values()))


def check_weights(model: nn.Module, *, step: int, last_checkpoint: Path) -> None:
    """Stop where the weights, or running statistics, are not finite.

    Raises:
        Diverged: says which checkpoint is the last sound one.
    """
    if all_finite(model.state_dict().values()):
        return

    sound = "No checkpoint was written yet"
    if last_checkpoint.is_file():
        sound = f"The last sound checkpoint is {last_checkpoint}"
    raise Diverged(f"Stopped at step {step}: the weights are not finite any more. {sound}. {REMEDY}")


class BufferGuard:
    """Takes a model's buffers back where a step is skipped.

    The forward pass writes running statistics, those of batch norm and of the dynamic temperature, before
    anyone knows whether its gradient is finite. One image of NaN pixels would stay in them for good.

    Args:
        model: on its device; its buffers are written in place from now on.
    """

    def __init__(self, model: nn.Module):
        by_dtype: dict[torch.dtype, list[Tensor]] = defaultdict(list)
        for buffer in model.buffers():
            by_dtype[buffer.dtype].append(buffer)

        self._groups: list[tuple[list[Tensor], list[Tensor]]] = []
        for buffers in by_dtype.values():
            saved = [torch.empty_like(buffer) for buffer in buffers]
            self._groups.append((buffers, saved))

    @torch.no_grad()
    def save(self) -> None:
        """Keep a copy of all buffers, in memory that is allocated once."""
        for buffers, saved in self._groups:
            foreach.copy_(saved, buffers)

    def are_finite(self) -> Tensor:
        """Whether all buffers are finite, () bool on the device."""
        values = [buffer for buffers, _ in self._groups for buffer in buffers]
        return all_finite(values)

    @torch.no_grad()
    def restore_unless(self, keep: Tensor) -> None:
        """Copy the saved buffers back where `keep`, () bool, is false."""
        if is_on_host(keep):
            if not keep:
                for buffers, saved in self._groups:
                    foreach.copy_(buffers, saved)
            return

        # the same choice without waiting for the device; a product would carry NaN over
        for buffers, saved in self._groups:
            chosen = [torch.where(keep, buffer, copy) for buffer, copy in zip(buffers, saved, strict=True)]
            foreach.copy_(buffers, chosen)


@torch.no_grad()
def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Whether all elements of all floating-point tensors are finite, () bool on their device."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    if not floating:
        return torch.tensor(True)

    # the largest magnitude of each tensor; NaN and infinity survive in it
    largest = foreach.norm(floating, ord=float("inf"))
    return torch.stack([value.isfinite() for value in largest]).all()
